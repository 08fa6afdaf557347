"""A study goes on where it was stopped, never repeats itself, and calls nothing that is not there."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from normsmith.errors import StudyError, TaskError
from normsmith.studies import Settings, Store, run_study, select
from normsmith.studies.arms import AS_IS
from normsmith.studies.results import Verdict
from normsmith.studies.trial import Trial


def numbers(result):
    """All that must not depend on how a study ran."""
    return result.model_dump(
        include={"answers", "failures", "seeds", "skipped"},
    )


def test_a_second_study_reuses_everything(store, tiny):
    settings = Settings(seeds=3, jobs=1)
    first = run_study(tiny(), select(("fewer-steps",)), store, settings)
    second = run_study(tiny(), select(("fewer-steps",)), store, settings)
    assert first.trials_new > 0
    assert (second.trials_new, second.trials_reused) == (0, first.trials_new + first.trials_reused)
    assert numbers(first) == numbers(second)


def test_jobs_do_not_change_numbers(tiny):
    results = []
    for jobs in (1, 2):
        with Store("sqlite://") as store:
            results.append(run_study(tiny(), select(("placement",)), store, Settings(seeds=3, jobs=jobs)))
    assert numbers(results[0]) == numbers(results[1])


def test_a_target_is_found_where_the_task_has_none(store, tiny):
    result = run_study(tiny("untargeted"), select(("fewer-steps",)), store, Settings(seeds=2))
    assert "Target: test metric" in result.answers[0].notes[0]


def test_networks_with_a_forward_of_their_own_are_studied(store, tiny):
    result = run_study(tiny("unsequential"), select(("placement",)), store, Settings(seeds=2, steps=5))
    assert result.trials_new > 0
    assert not result.failures


def test_a_target_that_no_trial_can_give_is_named(store, tiny):
    result = run_study(tiny("lost"), select(("fewer-steps",)), store, Settings(seeds=1))
    assert "no target" in result.skipped["fewer-steps"]


def test_batches_of_the_smallest_size_cannot_be_made_smaller(store, tiny):
    with pytest.raises(StudyError, match="batch_size=2"):
        run_study(tiny("pairs"), select(("small-batches",)), store, Settings(seeds=1))
    assert store.count() == 0


def test_the_advice_on_placement_is_that_for_the_networks_own_activation(store, tiny):
    for name, claimed in (("task", "before"), ("tanh", "after")):
        answer = run_study(tiny(name), select(("placement",)), store, Settings(seeds=1)).answers[0]
        assert answer.effects[0].treatment == f"batch norm {claimed} activation"


def test_a_loss_that_is_nan_from_the_start_is_refused(store):
    from tests.studies.tiny import make

    task = make("nan", loss=lambda output, target: output.sum() * float("nan"))
    with pytest.raises(TaskError, match=r"(?i)nan"):
        run_study(task, select(("fewer-steps",)), store, Settings(seeds=2))


def stored(path: Path):
    """Keys and times of what is committed; nothing while there is no table yet."""
    if not path.exists():
        return []
    engine = sa.create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as connection:
            return connection.execute(sa.text("SELECT key, measurements, created FROM trials")).all()
    except sa.exc.OperationalError:
        return []
    finally:
        engine.dispose()


def test_a_study_killed_in_the_middle_goes_on_to_the_same_numbers(tiny, tmp_path):
    path = tmp_path / "study.db"
    running = subprocess.Popen(
        [sys.executable, "-m", "normsmith", "study", tiny("slow"), "-q", "fewer-steps", "--seeds", "3", "--jobs", "2",
         "--store", f"sqlite:///{path}", "--no-report"],
        env={**os.environ, "TINY_SLEEP": "0.02"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while len(stored(path)) < 3 and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.05)
        running.kill()
        running.communicate(timeout=30)  # until the last process that writes there has ended: workers, too
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait(10)
    before = stored(path)
    assert len(before) >= 3
    results = []
    for url in (f"sqlite:///{path}", "sqlite://"):
        with Store(url) as store:
            results.append(
                run_study(tiny("slow"), select(("fewer-steps",)), store, Settings(seeds=3, jobs=2))
            )
    resumed, whole = results
    assert numbers(resumed) == numbers(whole)
    assert resumed.trials_reused >= len(before)
    assert resumed.trials_new + len(before) == whole.trials_new
    after = stored(path)
    assert set(before) <= set(after)  # nothing that was finished has run again


def test_an_a_a_study_is_rarely_called(store, tiny):
    """Arms of one setting with independent streams, through the whole engine: nothing to find."""
    from normsmith.studies.statistics import Hypothesis, Pairs, judge
    from normsmith.studies.trial import train
    from normsmith.tasks import load

    task = load(tiny())
    called = 0
    studies = 24
    for study in range(studies):
        finals = [
            tuple(
                train(task, Trial(AS_IS, 0.1, 6 * study + seed, steps=5, stream=stream)).test[-1]
                for seed in range(6)
            )
            for stream in (0, 1)
        ]
        hypothesis = Hypothesis("a-a", "one is better", "one", "other", "points", "difference", 0.1, "higher")
        (effect,) = judge([Pairs(hypothesis, tuple(range(6)), *finals)])
        called += effect.verdict in (Verdict.HOLDS, Verdict.REVERSED)
    assert called <= 4  # 5 % of 24 is 1.2; more than 4 has probability 0.006
