"""Whatever becomes of a worker, every trial is reported once."""

import math
import sys
import time
from dataclasses import replace

import pytest

from normsmith.errors import StudyError
from normsmith.studies.arms import AS_IS
from normsmith.studies.runner import Runner, TaskReference, seconds_per_step
from normsmith.studies.trial import Trial
from normsmith.tasks import load

TRIALS = [Trial(AS_IS, 0.1, seed, steps=10) for seed in range(4)]


def run(name, trials, jobs=1, timeout=60.0):
    """All outcomes; each trial may be reported once only."""
    outcomes = {}

    def report(trial, outcome):
        assert trial not in outcomes
        outcomes[trial] = outcome

    with Runner(TaskReference.to(load(name), name), jobs, timeout) as runner:
        runner.run(trials, report)
    return outcomes


def comparable(outcomes):
    return {t: replace(o, seconds=0.0, loss=o.loss[1:]) for t, o in outcomes.items()}


def test_the_number_of_workers_changes_nothing(tiny):
    one, two = run(tiny(), TRIALS, jobs=1), run(tiny(), TRIALS, jobs=2)
    assert comparable(one) == comparable(two)
    assert set(one) == set(TRIALS)


def test_what_the_users_code_raises_is_the_trials_result(tiny):
    (outcome,) = run(tiny("raising"), TRIALS[:1]).values()
    assert outcome.status == "raised"
    assert "the loader is out of order" in outcome.reason
    assert "tiny.py:" in outcome.reason
    assert not outcome.measured


def test_user_code_that_exits_ends_its_trial_only(tiny):
    (outcome,) = run(tiny("leaving"), TRIALS[:1]).values()
    assert outcome.status == "raised"
    assert "SystemExit: good-bye" in outcome.reason
    assert seconds_per_step(load(tiny("leaving")), TRIALS[:1]) == 0.0


def test_a_trial_that_kills_its_worker_is_reported_and_the_others_run(tiny, monkeypatch):
    monkeypatch.setenv("TINY_KILL", "1")
    outcomes = run(tiny("killing"), TRIALS[:2], jobs=2)
    assert {outcome.status for outcome in outcomes.values()} == {"killed"}
    monkeypatch.delenv("TINY_KILL")
    assert {outcome.status for outcome in run(tiny("killing"), TRIALS[:2]).values()} == {"finished"}


def test_a_trial_that_takes_too_long_is_stopped(tiny, monkeypatch):
    monkeypatch.setenv("TINY_SLEEP", "60")
    (outcome,) = run(tiny("slow"), TRIALS[:1], timeout=4.0).values()
    assert outcome.status == "timeout"
    assert outcome.seconds < 20


def test_a_task_object_travels_by_value():
    captured = 0.1

    def accuracy(output, target):
        return (output.argmax(1) == target).double().mean().item() + captured - 0.1

    from tests.studies.tiny import make

    task = make("by value", metric=accuracy)
    outcomes = {}
    with Runner(TaskReference.to(task), 1, 60.0) as runner:
        runner.run(TRIALS[:1], lambda trial, outcome: outcomes.update({trial: outcome}))
    assert outcomes[TRIALS[0]].status == "finished"


def test_a_task_that_changed_meanwhile_is_refused(tiny):
    reference = replace(TaskReference.to(load(tiny()), tiny()), fingerprint="0" * 64)
    with (
        Runner(reference, 1, 60.0) as runner,
        pytest.raises(StudyError, match=r"without a seed.*changed while"),
    ):
        runner.run(TRIALS[:1], lambda trial, outcome: None)


def test_time_is_measured_on_the_trials_themselves(tiny):
    measured = seconds_per_step(load(tiny()), TRIALS[:2])
    assert math.isfinite(measured)
    assert 0 < measured < 1
    assert seconds_per_step(load(tiny("raising")), TRIALS[:2]) == 0.0


def test_what_is_done_once_in_a_process_is_not_counted_for_every_step(tiny):
    """Kernels are compiled in the first step."""
    called = []

    def forward(model, batch):
        if not called:
            time.sleep(1.2)
        called.append(1)
        return model(batch[0]), batch[1]

    assert seconds_per_step(replace(load(tiny()), forward=forward), TRIALS[:1]) < 1.2 / 12


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
