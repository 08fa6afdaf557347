"""How long a training step takes here and now, by which a study says beforehand how long it will take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from normsmith.studies.trial import Trial, train
from normsmith.tasks import Task


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the body with one torch thread, as workers do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def seconds_per_step(task: Task, trials: Iterable[Trial], steps: int = 12) -> float:
    """The mean time of a training step with its evaluations, measured now on a few of `trials`.

    A trial that fails says nothing about time and is passed over; 0.0 if all do.
    """
    measured = []
    with one_thread():
        for trial in trials:
            try:
                train(task, replace(trial, steps=1))  # the first step of all may compile kernels
                started = time.perf_counter()
                outcome = train(task, replace(trial, steps=steps))
            except KeyboardInterrupt:
                raise
            except BaseException:  # noqa: BLE001 - the trial itself will report it
                continue
            if outcome.status == "finished":
                measured.append((time.perf_counter() - started) / steps)
    return sum(measured) / len(measured) if measured else 0.0
