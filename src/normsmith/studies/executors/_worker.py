"""What runs in a worker process: trials, whose every failure comes back as data, and nothing on standard output."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cloudpickle
import torch

from normsmith._files import explained
from normsmith._text import error_text, one_line
from normsmith.errors import NormsmithError, StudyError
from normsmith.studies.trial import Outcome, Trial, train
from normsmith.tasks import Task
from normsmith.tasks.executed import executed, watch
from normsmith.tasks.imports import UserFile, imported

WATCH = 1.0
"""Seconds between two checks of a worker whether its parent process still runs."""
TRAINING, _COMPILING = b"t", b"c"


def no_workers(reason: str) -> StudyError:
    """The error for a machine that lacks what worker processes need: it is no trial's fault."""
    return StudyError(
        f"expected memory for worker processes and space for their temporary files, got {reason}; make room, "
        "name another folder in TMPDIR, or ask for fewer with --jobs; finished trials are stored, the same command "
        "goes on from them"
    )


class _Worker:
    """What a worker process keeps between its trials."""

    resolve: Callable[[], Task]
    covered: frozenset[Path]
    task: Task | None = None
    clock: _Clock | None = None


class _Clock:
    """Says in a file of one byte whether a trial's time counts: while it trains, but not while kernels compile."""

    def __init__(self, file: Path) -> None:
        self._depth = 0
        with explained(no_workers):
            self._file = os.open(file, os.O_CREAT | os.O_WRONLY)
            self._say(TRAINING)

    def compiling(self, change: int) -> None:
        """A compilation has begun (1) or has ended (-1)."""
        self._depth += change
        self._say(_COMPILING if self._depth > 0 else TRAINING)

    def close(self) -> None:
        os.close(self._file)

    def _say(self, what: bytes) -> None:
        os.pwrite(self._file, what, 0)


def enter(resolve: Callable[[], Task], covered: frozenset[Path], parent: int) -> None:
    """Set up a worker, which has nothing but standard error to speak to, and ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _speak_to_standard_error()
    _Worker.resolve, _Worker.covered = staticmethod(resolve), covered
    torch.set_num_threads(1)
    weight = torch.nn.Parameter(torch.zeros(1))  # what torch imports for a first step is no part of a trial
    weight.sum().backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD([weight], lr=0.1).step()
    if find_spec("numba") is not None:
        _listen_to_numba()
    watch()


def _speak_to_standard_error() -> None:
    """Whatever is printed goes to standard error, from C too: standard output is the study's. Input has an end."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        os.dup2(2, 1)
    except OSError:  # it is closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = sys.stderr


def _listen_to_numba() -> None:
    """Have numba tell of its compilations, ours and the user's; loading compiled code from the disk is one too."""
    from numba.core import event

    class Listener(event.Listener):  # type: ignore[misc]
        def on_start(self, event: object) -> None:
            if _Worker.clock is not None:
                _Worker.clock.compiling(1)

        def on_end(self, event: object) -> None:
            if _Worker.clock is not None:
                _Worker.clock.compiling(-1)

    event.register("numba:compiler_lock", Listener())


def _end_with(parent: int) -> None:
    """End this process when `parent` has: one that was killed cannot tell its workers."""
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)


def run(pickled: bytes, clock: Path) -> Outcome:
    """Run a trial in a worker process; whatever the user's code raises is the trial's result."""
    if _Worker.task is None:
        _Worker.task = _loaded(_Worker.resolve)
        gc.freeze()  # or the pool's collection each second takes 0.2 s, for objects that stay as long as the worker
    try:
        trial: Trial = cloudpickle.loads(pickled)  # here, since it names functions that may not be found
    except BaseException as error:  # noqa: BLE001
        return Outcome("raised", reason_of(error))
    return replace(_outcome(_Worker.task, trial, clock), uncovered=_uncovered(trial))


def _outcome(task: Task, trial: Trial, clock: Path) -> Outcome:
    """Train, while the clock runs."""
    process, started = os.getpid(), time.perf_counter()
    torch.set_num_threads(1)  # the task may have set another number
    _Worker.clock = _Clock(clock)
    try:
        return train(task, trial)
    except BaseException as error:  # noqa: BLE001 - any failure of the user's code is this trial's result
        return Outcome("raised", reason_of(error), seconds=time.perf_counter() - started)
    finally:
        if os.getpid() != process:  # the task has forked, and this is the child
            os._exit(0)
        _Worker.clock.close()
        _Worker.clock = None


def _uncovered(trial: Trial) -> tuple[str, ...]:
    """The user's files that this process has run and the trial's key does not cover.

    Edits and probes are covered by their names, for which who writes them is answerable.
    """
    arm = trial.arm
    functions = (*(edit.function for edit in (*arm.edits, *arm.data)), *arm.probes)
    own = [file for function in functions if (file := UserFile.of(sys.modules[function.__module__]))]
    known = _Worker.covered | {file.path for file in own} | imported(own).keys()
    return tuple(sorted(str(path) for path in executed() - known))


def _loaded(resolve: Callable[[], Task]) -> Task:
    """The task; an error is one of ours, which the parent process can unpickle."""
    try:
        return resolve()
    except StudyError:
        raise
    except BaseException as error:  # noqa: BLE001 - the parent tells of it, whatever it is
        text = str(error) if isinstance(error, NormsmithError) else error_text(error)
        raise StudyError(f"the task cannot be loaded in a worker process: {text}") from None


def reason_of(error: BaseException) -> str:
    """What an exception says and where it came from, whatever it is; of one that explains another, the other."""
    own = error.__cause__ if isinstance(error, NormsmithError) and error.__cause__ is not None else error
    frames = traceback.extract_tb(own.__traceback__)
    where = f"({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{error_text(error)} {one_line(where, most=200)}".rstrip()
