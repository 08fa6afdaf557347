"""What every executor of trials does, whatever becomes of its workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.contracts.store import fill_up

from normsmith.errors import StoreError, StudyError
from normsmith.studies.arms import AS_IS
from normsmith.studies.costs import one_thread
from normsmith.studies.executors.executor import Executor, Workers
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.rescue import FILE, rescuing
from normsmith.studies.store import Record, Store
from normsmith.studies.trial import Outcome, Trial, train
from normsmith.tasks import load

HOSTILE = f"{Path(__file__).parents[1] / 'studies' / 'hostile.py'}:misbehaving"
GOOD = [Trial(AS_IS, 0.1, seed, steps=10) for seed in range(3)]
RAISES, KILLS, NEVER_ENDS, EATS, SAYS, LOSES_ITS_WORKER, LOSES_ITS_NODE = (
    Trial(AS_IS, number + 0.1, 0, steps=10) for number in range(1, 8)
)


def comparable(outcome: Outcome) -> Outcome:
    """An outcome without its time, and without the loss before the first step, which is not a number."""
    return replace(outcome, seconds=0.0, loss=outcome.loss[1:])


class Reports(dict[Trial, Outcome]):
    """The outcomes of trials, of which each may be reported once only."""

    def __call__(self, trial: Trial, outcome: Outcome) -> None:
        assert trial not in self
        self[trial] = outcome


class ExecutorContract:
    """Inherit, and give the fixture `executor`; `jobs` is the number of workers."""

    jobs = 1

    @pytest.fixture
    def executor(self) -> Executor:
        raise NotImplementedError

    def test_is_one_and_says_how_much_fits(self, executor):
        assert isinstance(executor, Executor)
        assert executor.width("cpu") >= self.jobs
        assert str(executor)

    @pytest.fixture
    def full_store(self, tmp_path, monkeypatch):
        """Runs a trial whose result goes to a store on a full disk, and looks that it is not lost."""
        monkeypatch.chdir(tmp_path)

        def run(workers: Workers, trial: Trial) -> None:
            with Store(f"sqlite:///{tmp_path}/study.db") as store:
                fill_up(store)
                records: dict[str, Record] = {}

                def put(trial: Trial, outcome: Outcome) -> None:
                    measured = outcome.measurements() | {"padding": [0.5] * 2000}
                    record = Record(
                        trial.spec(), outcome.status, outcome.reason, measured, outcome.seconds, {}
                    )
                    records[record.key] = record
                    store.put(record)

                try:
                    with rescuing(store, records):
                        workers.run([trial], put)
                finally:
                    with Store(f"sqlite:///{tmp_path / FILE}") as refuge:
                        assert list(refuge.get(records)) == [record.key for record in records.values()]

        return run

    def test_every_trial_is_reported_once_and_bad_ones_take_no_good_one_with_them(self, executor, full_store):
        """One that raises, eats memory, kills its worker or never ends; the good ones have the numbers of any process.

        Trials may come late: None means that there is none now. Before them a trial ends whose result the store does
        not take, since its disk is full: that ends a study, and leaves the workers as they are.
        """
        task, reports, ticks = load(HOSTILE), Reports(), []

        def trials():
            yield from (GOOD[0], RAISES, EATS, KILLS, GOOD[1])
            seen = len(ticks)
            while len(ticks) < seen + 2:
                yield None
            yield from (GOOD[2], NEVER_ENDS)

        with executor.open(TaskReference.to(task, HOSTILE), self.jobs, 4.0) as workers:
            assert isinstance(workers, Workers)
            workers.start()
            with pytest.raises(StoreError, match=r"its disk is full: make free space.*the 1 trial .* saved"):
                full_store(workers, GOOD[0])
            workers.run(trials(), reports, lambda: ticks.append(1))
        said = {trial: (outcome.status, outcome.reason) for trial, outcome in reports.items()}
        with one_thread():
            assert [comparable(reports[trial]) for trial in GOOD] == [
                comparable(train(task, t)) for t in GOOD
            ]
        for trial, status, words in (
            (RAISES, "raised", "the loader is out of order (hostile.py:"),
            (EATS, "raised", "can't allocate memory"),
            (KILLS, "killed", "its worker process was killed, twice (out of memory?)"),
            (NEVER_ENDS, "timeout", "not finished after 4 s"),
        ):
            assert said[trial][0] == status, said[trial]
            assert words in said[trial][1]
        assert len(said) == 7
        assert reports[NEVER_ENDS].seconds < 60

    def test_a_task_that_changed_meanwhile_is_refused(self, executor):
        reference = replace(TaskReference.to(load(HOSTILE), HOSTILE), fingerprint="0" * 64)
        with (
            executor.open(reference, 1, 60.0) as workers,
            pytest.raises(StudyError, match=r"without a seed.*changed while"),
        ):
            workers.run(GOOD[:1], lambda trial, outcome: None)
