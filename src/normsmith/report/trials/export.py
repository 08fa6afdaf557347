"""Export: stored trials into a table or an experiment tracker, by one word that says where to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from normsmith._choices import check_choice, did_you_mean
from normsmith.errors import ReportError
from normsmith.report.trials.files import write_table
from normsmith.report.trials.mlflow_sink import MLflow
from normsmith.report.trials.rows import TABLES
from normsmith.report.trials.tensorboard_sink import TensorBoard
from normsmith.studies.named_trials import NamedTrial
from normsmith.studies.sinks import Sink

_SINKS: dict[str, Callable[..., Sink]] = {"tensorboard": TensorBoard, "mlflow": MLflow}
SINK_FORMS = "tensorboard:FOLDER, mlflow:URI, or tensorboard or mlflow alone for their usual places"
"""How sinks are named on the command line."""


def open_sink(to: str) -> Sink:
    """The sink that `tensorboard:FOLDER` or `mlflow:URI` names; without what follows, it is where it is usually.

    Raises:
        ReportError: another word, or nothing can be written there.
        MissingExtraError: an extra is not installed.
    """
    kind, colon, where = to.partition(":")
    if kind not in _SINKS or (colon and not where):
        hint = "" if kind in _SINKS else did_you_mean(kind, _SINKS)
        raise ReportError(
            f"expected a sink such as tensorboard:runs or mlflow:sqlite:///mlflow.db, got {to!r}{hint}"
        )
    return _SINKS[kind](*([where] if where else []))


def is_sink(to: str) -> bool:
    """Whether a word names a sink, or was meant to, rather than a file."""
    kind, colon, _ = to.partition(":")
    return kind in _SINKS or (colon != "" and did_you_mean(kind, _SINKS) != "")


def export_trials(trials: Iterable[NamedTrial], to: str, *, rows: str = "trials", force: bool = False) -> int:
    """Write stored trials to a `.csv` or `.parquet` file, to `tensorboard:FOLDER` or to `mlflow:URI`.

    Args:
        trials: what to write; see `normsmith.studies.named_trials`. It is read once, a few at a time.
        to: where to, a sink as `open_sink` takes it. A file is written whole or not at all; a sink gets the trials
            that it lacks.
        rows: of a file: a row for each of the `trials`, or of their `evaluations` or `probes`.
        force: whether a file that exists is overwritten.

    Returns:
        How many rows were written, or trials handed over.

    Raises:
        InputError: there are no such rows.
        ReportError: nothing can be written there, or a file exists and `force` is not given.
        MissingExtraError: an extra is not installed.

    >>> from normsmith.studies import Store, named_trials
    >>> from normsmith.studies.store import Record
    >>> from tempfile import TemporaryDirectory
    >>> with Store("sqlite://") as store, TemporaryDirectory() as folder:
    ...     store.put(Record({"seed": 0, "learning_rate": 0.1}, "finished", "", {}, 0.4, {"torch": "2.13"}))
    ...     export_trials(named_trials(store), f"{folder}/trials.csv")
    ...     print(Path(folder, "trials.csv").read_text().splitlines()[0][:30])
    1
    key,task,arm,learning_rate,see
    """
    check_choice("rows", rows, tuple(TABLES))
    if not is_sink(to):
        return write_table(trials, TABLES[rows], Path(to), force=force)
    sink = open_sink(to)
    count = 0
    for trial in trials:
        sink.put(trial)
        count += 1
    sink.close()
    return count
