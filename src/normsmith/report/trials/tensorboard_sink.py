"""Trials for TensorBoard: one run a trial, with its curves, its probes and its settings."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from normsmith._extras import imports_of_extra
from normsmith._files import explained
from normsmith.errors import ReportError
from normsmith.report.trials.rows import measured_at
from normsmith.report.trials.words import RESULTS, as_text, described
from normsmith.studies.named_trials import NamedTrial
from normsmith.studies.trial import Outcome

_LONGEST = 60  # characters of a name in a path


class TensorBoard:
    """Writes each finished or diverged trial as a run: a folder `task/arm, rate, seed, key` with one event file.

    A run that is there already is left as it is, and one is there only when it was written to its end.

    Args:
        folder: where the runs are; made if it is not there. By default `runs`, where TensorBoard's writer puts them.

    Raises:
        ReportError: the folder cannot be made or written.
        MissingExtraError: the extra `tensorboard` is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str] = "runs") -> None:
        with imports_of_extra("tensorboard", "the sink for TensorBoard"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer: Any = SummaryWriter
        self._folder = Path(folder).absolute()  # a study may change the working directory
        self._is_new = not self._folder.exists()
        with explained(self._failure):
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass

    def put(self, trial: NamedTrial) -> None:
        """Write the run of a trial, unless it is there or the trial has no result.

        Raises:
            ReportError: the folder cannot be written.
        """
        run = self._folder / _name(trial.task) / _run_name(trial)
        if trial.record.status not in RESULTS or run.exists():
            return
        with explained(self._failure):
            run.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=".normsmith-", suffix=".tmp", dir=run.parent))
            try:
                self._write(trial, draft)
                draft.chmod(0o755)
                draft.rename(run)
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def close(self) -> None:
        """Nothing is open: each run is written whole. A folder that was made for runs and got none goes."""
        if self._is_new:
            with suppress(OSError):  # there are runs in it
                self._folder.rmdir()

    def __str__(self) -> str:
        return f"tensorboard:{self._folder}"

    def _write(self, trial: NamedTrial, folder: Path) -> None:
        outcome = Outcome.of(trial.record)
        time = _seconds(trial.stored)
        curves = {
            "loss": outcome.loss,
            "metric/validation": outcome.validation,
            "metric/test": outcome.test,
        }
        with self._writer(str(folder)) as writer:
            for name, curve in curves.items():
                for step, value in zip(outcome.steps, curve, strict=False):
                    if not math.isnan(value):  # before the first step there is no loss
                        writer.add_scalar(name, value, step, walltime=time)
            for name, values in outcome.probes.items():
                steps = measured_at(trial, values) or range(len(values))
                for step, value in zip(steps, values, strict=True):
                    writer.add_scalar(f"probes/{as_text(name)}", value, step, walltime=time)
            ends = {f"final/{name}": curve[-1] for name, curve in curves.items() if curve}
            writer.add_hparams(described(trial), ends, run_name=".", global_step=0)

    def _failure(self, reason: str) -> ReportError:
        return ReportError(
            f"expected a folder for TensorBoard that can be written at {self._folder}, got {reason}; name another one"
        )


def _run_name(trial: NamedTrial) -> str:
    spec = trial.record.spec
    rate, seed = spec.get("learning_rate"), spec.get("seed")
    return f"{_name(trial.arm)}, rate {rate}, seed {seed}, {trial.record.key[:12]}"


def _name(text: str) -> str:
    """A name as a part of a path, on any file system: without what has a meaning there.

    >>> _name("relu, batch norm before"), _name("../a/b:c"), _name("")
    ('relu, batch norm before', '_a_b_c', 'unnamed')
    """
    return re.sub(r"[^\w ,.()=+-]+", "_", text)[:_LONGEST].strip(" .") or "unnamed"


def _seconds(stored: str) -> float | None:
    return datetime.fromisoformat(stored).timestamp() if stored else None
