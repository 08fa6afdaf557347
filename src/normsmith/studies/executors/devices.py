"""The GPUs of this machine among worker processes: each worker has one, and sees no other."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from normsmith.errors import StudyError
from normsmith.studies.executors.reference import TaskReference
from normsmith.tasks import Task

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable by which a process is told which GPUs there are, before it uses the first."""
FREE_SECONDS = 60.0
"""How long a worker waits for a worker before it to end and leave its GPU."""


def devices_for(device: str, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """The devices to use for a task on `device`: the wanted ones, or else all that are there; none for a CPU.

    Raises:
        StudyError: a wanted device is not there, or the task is not on "cuda", by which name each worker finds its own.

    >>> devices_for("cpu")
    ()
    """
    if device != "cuda":
        if wanted:
            raise StudyError(
                f"devices {', '.join(wanted)!r}: expected a task on the device 'cuda', by which name each worker finds "
                f"its own, got one on {device!r}; write Task(device='cuda')"
            )
        return ()
    there = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    for name in wanted:
        if re.fullmatch(r"cuda:\d+", name) is None or name not in there:
            raise StudyError(
                f"devices: expected some of {', '.join(there) or 'none, since there is no GPU here'}, got {name!r}"
            )
    if len(set(wanted)) < len(wanted):
        raise StudyError(
            f"devices: expected each once, got {', '.join(wanted)}; more jobs than devices share them"
        )
    return tuple(wanted) or there


def visible(device: str) -> str:
    """What a worker is told, so that this device is the only one that it sees: its name where this process was told."""
    number = int(device.partition(":")[2])
    told = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return told[number] if number < len(told) else str(number)


@dataclass(frozen=True)
class Assigned:
    """Gives each worker process a device of its own, and then the task.

    A worker takes the first of `places` (what the environment is to say, one for each worker) whose file in `folder`
    nobody has locked. The system releases the lock when the process ends, however it ends.
    """

    reference: TaskReference
    places: tuple[str, ...]
    folder: Path

    def resolve(self) -> Task:
        """The task, in a process that sees one device.

        Raises:
            StudyError: no device is free, CUDA was used before, or the task cannot be had.
        """
        self._take()
        return self.reference.resolve()

    def _take(self) -> None:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            raise StudyError(
                f"a worker process used CUDA before it was told its device by {VISIBLE}; do not use it where a "
                "module is imported"
            )
        until = time.monotonic() + FREE_SECONDS
        while time.monotonic() < until:
            for number, place in enumerate(self.places):
                # kept open as long as the process lives; a lock of this kind is not the children's too
                file = os.open(self.folder / f"device-{number}", os.O_CREAT | os.O_RDWR, 0o600)
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    os.close(file)
                    continue
                os.environ[VISIBLE] = place
                return
            time.sleep(0.2)
        raise StudyError(
            f"expected a free device among {', '.join(self.places)} for a worker process, got none for "
            f"{FREE_SECONDS:g} s: earlier workers have not ended; end them, and start the study again"
        )
