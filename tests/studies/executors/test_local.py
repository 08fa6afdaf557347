"""Whatever becomes of a worker, every trial is reported once."""

import errno
import os
import sys
import tempfile
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contracts.executor import ExecutorContract, Reports

from normsmith.errors import StudyError
from normsmith.studies.arms import AS_IS, Arm
from normsmith.studies.executors import local
from normsmith.studies.executors.local import LocalExecutor, LocalWorkers, _Attempt
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.executors.supply import Supply
from normsmith.studies.trial import Outcome, Trial
from normsmith.tasks import load

HOSTILE = Path(__file__).parents[1] / "hostile.py"
TRIALS = [Trial(AS_IS, 0.1, seed, steps=10) for seed in range(4)]

warm = pytest.mark.usefixtures("warm_workers")
"""Of tests that ask nothing of how a worker starts and speaks: it is there at once."""


def run(name, trials, jobs=1, timeout=60.0):
    """All outcomes; each trial may be reported once only."""
    outcomes = {}

    def report(trial, outcome):
        assert trial not in outcomes
        outcomes[trial] = outcome

    with LocalWorkers(TaskReference.to(load(name), name), jobs, timeout) as runner:
        runner.run(trials, report)
    return outcomes


class TestLocal(ExecutorContract):
    @pytest.fixture
    def executor(self):
        return LocalExecutor()


@warm
def test_user_code_that_exits_ends_its_trial_only(tiny):
    (outcome,) = run(tiny("leaving"), TRIALS[:1]).values()
    assert outcome.status == "raised"
    assert "SystemExit: good-bye" in outcome.reason


@warm
def test_a_trial_that_kills_its_worker_is_reported_and_the_others_run(tiny, monkeypatch):
    monkeypatch.setenv("TINY_KILL", "1")
    outcomes = run(tiny("killing"), TRIALS[:2], jobs=2)
    assert {outcome.status for outcome in outcomes.values()} == {"killed"}
    monkeypatch.delenv("TINY_KILL")
    assert {outcome.status for outcome in run(tiny("killing"), TRIALS[:2]).values()} == {"finished"}


def test_a_trial_that_ends_while_others_are_stopped_is_reported_as_it_ended(tmp_path):
    ended, failed, _ = futures = [Future() for _ in range(3)]
    ended.set_result(Outcome("finished"))
    failed.set_exception(RuntimeError("stopped with the pool"))
    attempts = [
        _Attempt(trial, tmp_path / "none", time.monotonic(), training=training)
        for trial, training in zip(TRIALS, (5.0, 0.0, 5.0), strict=False)
    ]
    outcomes, supply = {}, Supply([])
    running = dict(zip(futures, attempts, strict=True))
    with LocalWorkers(TaskReference("tiny", None, "", {}, frozenset()), 3, 4.0) as stopping:
        stopping._stop_overdue(running, supply, lambda trial, outcome: outcomes.update({trial: outcome}))
    assert {trial: outcome.status for trial, outcome in outcomes.items()} == {
        TRIALS[0]: "finished",
        TRIALS[2]: "timeout",
    }
    assert supply.next() == TRIALS[1]
    assert not running


@warm
def test_the_time_to_load_a_task_does_not_count(monkeypatch):
    name = f"{HOSTILE}:raising"
    reference = TaskReference.to(load(name), name)  # before it is slow
    monkeypatch.setenv("HOSTILE_LOAD", "5")
    outcomes = {}
    with LocalWorkers(reference, 1, 3.0) as running:
        running.run(TRIALS[:1], lambda trial, outcome: outcomes.update({trial: outcome}))
    assert outcomes[TRIALS[0]].status == "finished"


@warm
def test_the_time_to_compile_does_not_count():
    pytest.importorskip("numba")
    (outcome,) = run(f"{HOSTILE}:compiling", TRIALS[:1], timeout=3.0).values()
    assert outcome.status == "finished"
    assert outcome.seconds > 6


@warm
def test_a_worker_that_never_begins_is_stopped(monkeypatch):
    name = f"{HOSTILE}:raising"
    reference = TaskReference.to(load(name), name)
    monkeypatch.setenv("HOSTILE_LOAD", "600")
    monkeypatch.setattr(local, "START_UP", 3.0)
    outcomes = {}
    with LocalWorkers(reference, 1, 1.0) as running:
        running.run(TRIALS[:1], lambda trial, outcome: outcomes.update({trial: outcome}))
    assert outcomes[TRIALS[0]].status == "timeout"
    assert "3 s to start, to load the task" in outcomes[TRIALS[0]].reason


def test_a_full_disk_for_temporary_files_is_no_trials_fault(tmp_path, monkeypatch):
    said = r"temporary files, got No space left on device; make room, .* finished trials are stored"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with LocalWorkers(TaskReference("", None, "", {}, frozenset()), 1, 60.0) as workers:
        monkeypatch.setattr(workers, "_open_pool", full)
        for use in (workers.start, lambda: workers.run(TRIALS, Reports())):
            with pytest.raises(StudyError, match=said):
                use()
    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with pytest.raises(StudyError, match=said):
        LocalWorkers(TaskReference("", None, "", {}, frozenset()), 1, 60.0)


def test_workers_that_end_before_a_trial_begins_end_the_study(tmp_path, monkeypatch):
    attempt = _Attempt(TRIALS[0], tmp_path / "clock", time.monotonic())
    with LocalWorkers(TaskReference("", None, "", {}, frozenset()), 1, 60.0) as workers:
        monkeypatch.setattr(workers, "_drain", lambda supply, *_: [attempt])
        with pytest.raises(
            StudyError, match=r"got two that ended before that; .* finished trials are stored"
        ):
            workers.run(TRIALS, Reports())


@warm
def test_whatever_the_users_code_raises_is_a_reason_of_sensible_length():
    from tests.studies.hostile import ERRORS

    rates = [float(number + 1) for number in range(len(ERRORS))]
    outcomes = run(f"{HOSTILE}:raising", [replace(TRIALS[0], learning_rate=rate) for rate in (*rates, 0.1)])
    reasons = {
        type(ERRORS[int(t.learning_rate) - 1]).__name__: o.reason
        for t, o in sorted(outcomes.items(), key=lambda item: item[0].learning_rate)  # of one type the last
        if t.learning_rate >= 1
    }
    assert [outcome.status for outcome in outcomes.values()] == ["raised"] * len(ERRORS) + ["finished"]
    assert all(name in reason and "(hostile.py:" in reason for name, reason in reasons.items())
    assert all(len(reason) < 2300 and reason.isprintable() for reason in reasons.values())
    assert "x" * 1900 in reasons["ValueError"]
    assert "(cut: 1,000,012 characters in all)" in reasons["ValueError"]


def test_nothing_of_a_worker_comes_on_standard_output(capfd):
    (outcome,) = run(f"{HOSTILE}:talking", TRIALS[:1]).values()
    said = capfd.readouterr()
    assert outcome.status == "finished"
    for words in ("by print", "by write", "by the first stdout", "by C"):
        assert f"said {words}" in said.err
    assert "nobody answers" in said.err
    assert said.out == ""


@warm
@pytest.mark.parametrize("how", ["return", "raise"])
def test_a_task_that_forks_is_reported_once(how, monkeypatch):
    monkeypatch.setenv("HOSTILE_FORK", how)
    outcomes = run(f"{HOSTILE}:forking", TRIALS[:2])
    assert [outcome.status for outcome in outcomes.values()] == ["finished"] * 2


@warm
def test_a_task_that_leaves_the_process_is_killed(monkeypatch):
    monkeypatch.setenv("HOSTILE_EXIT", "1")
    (outcome,) = run(f"{HOSTILE}:leaving", TRIALS[:1]).values()
    assert outcome.status == "killed"


@warm
def test_a_trial_that_cannot_be_read_in_a_worker_is_a_failure(tiny):
    (outcome,) = run(tiny(), [replace(TRIALS[0], arm=Unreadable("odd"))]).values()
    assert outcome.status == "raised"
    assert "no such arm here" in outcome.reason


class Unreadable(Arm):
    """An arm that pickles, but does not unpickle."""

    def __reduce__(self):
        return _no_arm, ()


def _no_arm():
    raise ImportError("no such arm here")


@warm
def test_a_task_object_travels_by_value():
    captured = 0.1

    def accuracy(output, target):
        return (output.argmax(1) == target).double().mean().item() + captured - 0.1

    from tests.studies.tiny import make

    task = make("by value", metric=accuracy)
    outcomes = {}
    with LocalWorkers(TaskReference.to(task), 1, 60.0) as runner:
        runner.run(TRIALS[:1], lambda trial, outcome: outcomes.update({trial: outcome}))
    assert outcomes[TRIALS[0]].status == "finished"


@warm
@pytest.mark.parametrize("name", ["zz_chosen", "zz_chosen.py"])
def test_files_that_ran_beyond_the_fingerprint_are_named(tiny, tmp_path, monkeypatch, name):
    (tmp_path / "zz_chosen.py").write_text("import zz_next\n")
    (tmp_path / "zz_next.py").write_text("")
    monkeypatch.setenv("TINY_IMPORT", str(tmp_path / name) if name.endswith(".py") else name)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])  # workers have that of their parent
    outcomes = run(tiny("loading"), TRIALS[:2]).values()  # the second finds the module loaded
    assert {outcome.status for outcome in outcomes} == {"finished"}
    files = tuple(str(tmp_path / file) for file in ("zz_chosen.py", "zz_next.py"))
    assert [outcome.uncovered for outcome in outcomes] == [files, files]
