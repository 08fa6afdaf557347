"""Trials for MLflow: one run a trial, in an experiment named after its task."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from normsmith._extras import imports_of_extra
from normsmith._text import cut, error_text
from normsmith.errors import ReportError
from normsmith.report.trials.rows import measured_at
from normsmith.report.trials.words import RESULTS, as_text, described
from normsmith.studies.named_trials import NamedTrial
from normsmith.studies.trial import Outcome

KEY = "normsmith.key"
"""The tag by which a run is known as that of a trial."""

_METRICS_A_CALL = 1000  # MLflow takes no more
_LONGEST = 250  # characters of a parameter, a name or a tag, which every MLflow takes
_RUNS_A_PAGE = 1000
_BRIEFLY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_DATABASES = r"(sqlite|postgresql|mysql|mssql)(\+\w+)?:"


class MLflow:
    """Writes each finished or diverged trial as a run: its settings as parameters, its curves as metrics with steps.

    A trial has one run, which the tag `normsmith.key` names: one that is there is left as it is, and one that was
    not written to its end is written anew.

    Args:
        uri: where MLflow keeps runs: `http://host:5000` or `sqlite:///mlflow.db`. By default where MLflow itself would:
            what MLFLOW_TRACKING_URI names, or else `sqlite:///mlflow.db` in the working directory.

    Raises:
        ReportError: MLflow cannot be reached there, with what it says.
        MissingExtraError: the extra `mlflow` is not installed.
    """

    def __init__(self, uri: str = "") -> None:
        with imports_of_extra("mlflow", "the sink for MLflow"):
            from mlflow.entities import Metric, Param, RunTag
            from mlflow.tracking import MlflowClient
        self._kinds: Any = (Metric, Param, RunTag)
        self._uri = uri = _absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
        if re.match(_DATABASES, uri):
            with imports_of_extra("mlflow", "MLflow in a database"):
                import_module("alembic")  # MLflow itself says so by a traceback, and not before it writes
        self._experiments: dict[str, str] = {}
        self._there: dict[str, set[str]] = {}
        with self._explained(), _asked_briefly():
            self._client: Any = MlflowClient(tracking_uri=uri)
            self._client.search_experiments(max_results=1)

    def put(self, trial: NamedTrial) -> None:
        """Write the run of a trial, unless it is there or the trial has no result.

        Raises:
            ReportError: MLflow refuses, with what it says.
        """
        if trial.record.status not in RESULTS:
            return
        with self._explained():
            experiment = self._experiment(trial.task)
            if trial.record.key not in self._there[experiment]:
                self._write(trial, experiment)
                self._there[experiment].add(trial.record.key)

    def close(self) -> None:
        """Nothing is open: each run is written whole."""

    def __str__(self) -> str:
        return f"mlflow:{re.sub(r'//[^/@]*@', '//***@', self._uri)}"

    def _experiment(self, task: str) -> str:
        """The id of a task's experiment, which is made if it is not there; runs that were not ended are deleted."""
        name = _plain(task)
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            number = found.experiment_id if found is not None else self._client.create_experiment(name)
            self._there[number] = set()
            for run in self._runs(number):
                if run.info.status == "FINISHED":
                    self._there[number].add(run.data.tags[KEY])
                else:
                    self._client.delete_run(run.info.run_id)
            self._experiments[name] = number
        return self._experiments[name]

    def _runs(self, experiment: str) -> Iterator[Any]:
        """The runs of an experiment that are trials."""
        token = None
        while True:
            page = self._client.search_runs(
                [experiment], f"tags.`{KEY}` != ''", max_results=_RUNS_A_PAGE, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _write(self, trial: NamedTrial, experiment: str) -> None:
        _, param, tag = self._kinds
        ended = _milliseconds(trial.stored)
        started = ended - round(1000 * trial.record.seconds)
        name = f"{as_text(trial.arm)}, seed {trial.record.spec.get('seed')}"
        run = self._client.create_run(
            experiment, start_time=started, tags={KEY: trial.record.key}, run_name=cut(name, _LONGEST)
        ).info.run_id
        params = [param(key, cut(str(value), _LONGEST)) for key, value in described(trial).items()]
        tags = {"normsmith.status": trial.record.status, "normsmith.reason": as_text(trial.record.reason)}
        self._client.log_batch(
            run, params=params, tags=[tag(key, cut(value, _LONGEST)) for key, value in tags.items() if value]
        )
        metrics = self._metrics(trial, started)
        while some := list(islice(metrics, _METRICS_A_CALL)):
            self._client.log_batch(run, metrics=some)
        self._client.set_terminated(run, "FINISHED", ended)

    def _metrics(self, trial: NamedTrial, at: int) -> Iterator[Any]:
        """Curves and probes; what was not measured, as the loss before the first step, is left out."""
        outcome = Outcome.of(trial.record)
        curves = {"loss": outcome.loss, "validation": outcome.validation, "test": outcome.test}
        points = [(name, outcome.steps, curve) for name, curve in curves.items()]
        for name, values in outcome.probes.items():
            points.append(
                (f"probe/{_plain(name)}", measured_at(trial, values) or tuple(range(len(values))), values)
            )
        for name, steps, values in points:
            for step, value in zip(steps, values, strict=False):
                if math.isfinite(value):
                    yield self._kinds[0](name, value, at, step)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ReportError:
            raise
        except Exception as error:
            raise ReportError(
                f"expected an MLflow that takes runs at {self}, got {error_text(error).rstrip('.')}; name a database, "
                "such as mlflow:sqlite:///mlflow.db, or a server that runs"
            ) from error


@contextmanager
def _asked_briefly() -> Iterator[None]:
    """Have MLflow ask a server once or twice: by default it asks one that is not there for minutes."""
    briefly = {name: value for name, value in _BRIEFLY.items() if name not in os.environ}
    os.environ.update(briefly)
    try:
        yield
    finally:
        for name in briefly:
            del os.environ[name]


def _absolute(uri: str) -> str:
    """An address that means the same in any working directory."""
    head = "sqlite:///"
    if uri.startswith(head):
        return head + str(Path(uri.removeprefix(head)).absolute())
    return uri if ":" in uri else str(Path(uri).absolute())


def _plain(name: str) -> str:
    """A name that MLflow takes: letters and digits of ASCII, and `_-. :`.

    >>> _plain("digits-mlp"), _plain("σ′ of layer/1"), _plain("")
    ('digits-mlp', '__ of layer_1', 'unnamed')
    """
    return re.sub(r"[^A-Za-z0-9_\-. :]", "_", name)[:_LONGEST] or "unnamed"


def _milliseconds(stored: str) -> int:
    return round(1000 * (datetime.fromisoformat(stored).timestamp() if stored else time.time()))
