"""The supply of trials."""

from normsmith.studies.arms import AS_IS
from normsmith.studies.executors.supply import Supply
from normsmith.studies.trial import Trial

TRIALS = [Trial(AS_IS, 0.1, seed, steps=10) for seed in range(3)]


def test_trials_that_have_to_run_again_come_first_and_none_is_not_the_end():
    supply = Supply(iter([TRIALS[0], None, TRIALS[1]]))
    assert supply.next() == TRIALS[0]
    assert supply.next() is None
    assert supply.more
    supply.again(TRIALS[2])
    supply.again(TRIALS[0])
    assert [supply.next() for _ in range(4)] == [TRIALS[0], TRIALS[2], TRIALS[1], None]
    assert not supply.more
    assert supply.is_empty
    supply.again(TRIALS[2])
    assert not supply.is_empty
    assert supply.next() == TRIALS[2]
