"""What a study costs beside training, and what more workers save. `python -m benchmarks.study_workers`.

Goals, on two idle cores: two workers at least 1.8 times as fast as one; a study with one worker at most 5 % longer than
a bare loop over the same trials in one process; a run of all questions whose 5,000 trials are all stored answers in
less than 5 s.
The start of workers is not in it: studies take minutes to hours.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.protocol import Ratio, interleave, ratio, spread, write
from normsmith.studies import Settings, Store, run_study, select
from normsmith.studies.arms import Arm, network, normalized
from normsmith.studies.executors.executor import Report, nothing
from normsmith.studies.executors.local import LocalExecutor
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.lab import Profile
from normsmith.studies.sharing import Sharing
from normsmith.studies.store import Record
from normsmith.studies.trial import Outcome, Trial, train
from normsmith.tasks import Task, load

TASK = "digits-mlp"
SEEDS = 8
STEPS = 240
ROUNDS = 7
STORED, AGAIN = 5000, 4
"""How many trials are in the store, and of how many seeds those are that the study of all questions uses."""


def trials_of(seeds: int) -> list[Trial]:
    """Trials of two arms, alternating, of equal length."""
    arms: tuple[Arm, ...] = (network(None), normalized(None))
    return [Trial(arm, 0.1, seed, STEPS) for seed in range(seeds) for arm in arms]


def bare(task: Task, trials: list[Trial]) -> None:
    """All trials, one after the other, and nothing else."""
    for trial in trials:
        assert train(task, trial).status == "finished"


class Engine:
    """Workers that have started, which run the trials with claims and a store on the disk, as a study does."""

    def __init__(self, task: Task, jobs: int, folder: Path) -> None:
        self._reference = TaskReference.to(task, TASK)
        self._workers = LocalExecutor().open(self._reference, jobs, 600.0)
        self._jobs, self._folder, self._runs = jobs, folder, 0

    def run(self, trials: list[Trial]) -> None:
        """Run the trials on a new store, each once."""
        self._runs += 1
        outcomes: list[Outcome] = []
        keys = {trial: trial.key(self._reference.fingerprint, self._reference.versions) for trial in trials}

        def finished(trial: Trial, outcome: Outcome) -> None:
            assert outcome.status == "finished"
            store.put(
                Record(
                    trial.content(self._reference.fingerprint),
                    outcome.status,
                    outcome.reason,
                    outcome.measurements(),
                    outcome.seconds,
                    self._reference.versions,
                )
            )
            outcomes.append(outcome)

        with (
            Store(f"sqlite:///{self._folder}/{self._jobs}-{self._runs}.db") as store,
            Sharing(store, keys, lambda trial, record: None, lambda count: None) as sharing,
        ):
            self._workers.run(sharing.trials(), finished, sharing.tick)
        assert len(outcomes) == len(trials)

    def close(self) -> None:
        """Stop the workers."""
        self._workers.__exit__()


class Copied:
    """An executor that trains each arm once, and gives its outcome to the arm's trials at other seeds and rates."""

    def __init__(self, task: Task) -> None:
        self._task, self._outcomes = task, dict[tuple[Arm, str, int], Outcome]()

    def width(self, device: str) -> int:
        """One trial at a time."""
        return 1

    def open(self, reference: TaskReference, jobs: int, timeout: float) -> Copied:
        """Itself: it has no workers."""
        return self

    def __enter__(self) -> Copied:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self) -> None:
        """Nothing has to start."""

    def run(self, trials: Iterable[Trial | None], report: Report, tick: Callable[[], None] = nothing) -> None:
        """Report every trial at once."""
        for trial in trials:
            if trial is not None:
                like = trial.arm, trial.detail, trial.steps
                if like not in self._outcomes:
                    self._outcomes[like] = train(self._task, trial)
                report(trial, self._outcomes[like])
            tick()


def fill(store: Store, record: Record, up_to: int) -> None:
    """Put copies of a record, each with a key of its own, until there are so many in the store."""
    for number in range(up_to - store.count()):
        store.put(replace(record, spec={**record.spec, "copy": number}))


def again(name: str, profile: Profile, folder: Path, seeds: int | None = None) -> tuple[Ratio, int]:
    """Seconds of a study of which every trial is stored, and how many of the stored trials it uses."""
    task, questions = load(name), select((), profile)
    first = Settings(seeds=seeds, profile=profile, executor=Copied(task))
    with Store(f"sqlite:///{folder}/asked.db") as store:
        run_study(name, questions, store, first)
        trial = Trial(network(None), task.learning_rates[0], 0, 12)
        outcome = train(task, trial)
        spec = trial.content(TaskReference.to(task, name).fingerprint)
        fill(store, Record(spec, "finished", "", outcome.measurements(), 1.0, {}), STORED)
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            result = run_study(name, questions, store, Settings(seeds=seeds, profile=profile))
            seconds.append(time.perf_counter() - started)
            assert result.trials_new == 0
    return spread(seconds), result.trials_reused


def main() -> None:
    """Measure all three."""
    torch.set_num_threads(1)
    task, trials = load(TASK), trials_of(SEEDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engines = {jobs: Engine(task, jobs, folder) for jobs in (1, 2)}
        candidates: dict[str, Callable[[], object]] = {
            "a bare loop": partial(bare, task, trials),
            "one worker": partial(engines[1].run, trials),
            "two workers": partial(engines[2].run, trials),
        }
        try:
            times = interleave(candidates, ROUNDS)
        finally:
            for engine in engines.values():
                engine.close()
        stored, used = again(TASK, "full", folder, AGAIN)
    rows = [
        f"| {len(trials)} trials | seconds | against one worker | goal |",
        "|---|---|---|---|",
        f"| a bare loop | {spread(times['a bare loop'])} | {ratio(times['one worker'], times['a bare loop'])} longer "
        "is one worker | at most 1.05 |",
        f"| one worker | {spread(times['one worker'])} | 1 | |",
        f"| two workers | {spread(times['two workers'])} | {ratio(times['one worker'], times['two workers'])} faster "
        "| at least 1.8 |",
        "",
        f"The full profile with {AGAIN} seeds again, with {STORED:,} trials stored or more, of which it uses {used:,}: "
        f"{stored} s (goal: less than 5 s).",
    ]
    write("study_workers", f"Workers of a study: {STEPS} steps of {TASK} a trial", "\n".join(rows))


if __name__ == "__main__":
    main()
