"""A reference to a task, by which a worker process gets the same one, and checks that it did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cloudpickle

from normsmith._text import error_text
from normsmith.errors import StudyError
from normsmith.studies.versions import versions
from normsmith.tasks import Task, fingerprint, load
from normsmith.tasks.fingerprint import covered
from normsmith.tasks.load import EMBEDDED


@dataclass(frozen=True)
class TaskReference:
    """How a worker process gets the task, by the name that `load` takes or pickled by value; and what computes it.

    An embedded task is pickled too: it can be nothing else in a worker.
    """

    name: str | None
    pickled: bytes | None
    fingerprint: str
    versions: dict[str, str]
    covered: frozenset[Path]
    device: str = "cpu"

    @classmethod
    def to(cls, task: Task, name: str | None = None) -> TaskReference:
        """Refer to `task`; `name` is what `load` was given, if anything.

        Raises:
            StudyError: a task without a name cannot be pickled.
        """
        try:
            by_name = name is not None and name not in EMBEDDED  # scikit-learn takes a second to be imported
            pickled = None if by_name else cloudpickle.dumps(task)
        except Exception as error:
            raise StudyError(
                f"the task {task.name} cannot be sent to worker processes, since pickling it raised "
                f"{error_text(error)}; put it into a file and pass 'file.py:name'"
            ) from error
        return cls(name, pickled, fingerprint(task), versions(task.device), covered(task), task.device)

    def resolve(self) -> Task:
        """The task, in whatever process this runs.

        Raises:
            StudyError: loading it here gives another task: its file draws without a seed, or has changed; or another
                backend or instruction set would compute it.
        """
        task: Task = cloudpickle.loads(self.pickled) if self.pickled is not None else load(str(self.name))
        here = versions(task.device)
        if here != self.versions:
            names = [name for name in here if here[name] != self.versions[name]]
            raise StudyError(
                f"expected worker processes to compute with {_values(self.versions, names)}, got "
                f"{_values(here, names)}: set what chooses these before Python starts"
            )
        if self.pickled is None and fingerprint(task) != self.fingerprint:
            raise StudyError(
                f"the task {self.name} is another in a worker process: expected fingerprint "
                f"{self.fingerprint[:12]}; either its file draws data or anything else at random without a seed "
                "(give torch.manual_seed or a generator a fixed one), or it changed while the study was running "
                "(finished trials are stored, start the study again)"
            )
        return task


def _values(versions: dict[str, str], names: list[str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in names)
