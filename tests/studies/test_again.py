"""A sample on another backend: what is compared, when values agree, and what so small a sample may miss."""

import pytest

from normsmith.errors import BackendError, StudyError
from normsmith.studies import Settings, run_study, select
from normsmith.studies.again import compared, sample
from normsmith.studies.trial import Outcome
from normsmith.studies.versions import versions


def outcome(*test, status="finished"):
    return Outcome(status, steps=tuple(range(0, 5 * len(test), 5)), test=test)


def said(changes, of=100, status="finished"):
    """Trials from 0.1 to 0.9 whose ends change by so much on the other backend."""
    pairs = [(outcome(0.1, 0.85, 0.9), outcome(0.1, 0.85, 0.9 + change, status=status)) for change in changes]
    return compared("reference", of, pairs, 0.01)


def test_a_sample_is_spread_evenly_and_no_larger_than_what_there_is():
    assert sample(range(100), 4) == [0, 25, 50, 75]
    assert sample(range(3)) == [0, 1, 2]
    assert sample([]) == []


@pytest.mark.parametrize(
    ("changes", "agree"),
    [
        ([0.0] * 20, True),
        ([0.03, -0.02] * 10, True),
        ([0.03] * 5 + [0.0] * 15, True),  # five of five: p = 0.06
        ([0.03] * 6 + [0.0] * 14, False),
        ([-0.03] * 18 + [0.03] * 2, False),
        ([0.0005] * 20, True),  # to one side, but slight
    ],
)
def test_values_agree_unless_they_differ_to_one_side(changes, agree):
    again = said(changes)
    assert again.agree is agree
    assert again.largest == pytest.approx(100 * max(map(abs, changes)))
    assert (again.higher, again.lower) == (sum(c > 0 for c in changes), sum(c < 0 for c in changes))
    assert ("The values agree" in again.sentence) is agree
    assert ("do not agree, and verdicts may hang on the backend" in again.sentence) is not agree


def test_trials_that_end_otherwise_do_not_agree():
    again = said([0.0] * 3, status="diverged")
    assert (again.otherwise, again.finished, again.agree) == (3, 0, False)
    assert "nothing can be said" in again.sentence
    one = compared(
        "aten", 2, [(outcome(0.1, 0.9), outcome(0.1, 0.9)), (outcome(0.1), outcome(0.1, status="killed"))], 1
    )
    assert one.otherwise == 1
    assert not one.agree
    assert "1 trial ended otherwise" in one.sentence


def test_steps_are_compared_at_a_level_that_both_reach():
    pair = outcome(0.0, 0.5, 0.92, 1.0), outcome(0.0, 0.95, 0.97, 1.0)
    assert compared("aten", 1, [pair], 0.01).largest_steps == 5
    falling = outcome(4.0, 2.0, 0.0), outcome(4.0, 1.0, 1.0)  # lower is better: the worse end is 1
    assert compared("aten", 1, [falling], 0.01).largest_steps == 5


def test_the_sentence_says_how_large_the_sample_is_and_what_it_may_miss():
    sentence = said([0.02, -0.01, 0.0, 0.0], of=40).sentence
    assert sentence.startswith(
        "Run again with reference: 4 of the 40 trials whose values are compared (10 %)."
    )
    assert "the same to the last bit in 2 of 4 that finished, higher in 1, lower in 1" in sentence
    assert "the largest difference is 2 points, that of steps to 90 % of the way 0." in sentence
    assert "misses with 5 % probability what happens in 53 % of the trials" in sentence
    whole = said([0.0] * 4, of=4).sentence
    assert whole.startswith("Run again with reference: all 4 trials whose values are compared. ")
    assert whole.endswith("The values agree: they are the same.")
    assert "agree: they differ to either side as chance has it." in sentence
    assert "agree: no two differ by more than 0.1 points." in said([0.0005] * 20).sentence


def test_a_study_runs_a_sample_again(store, tiny):
    settings = Settings(seeds=2, steps=10, again_with="reference")
    result = run_study(tiny(), select(("fewer-steps",)), store, settings)
    assert result.again is not None
    assert result.again.backend == "reference"
    assert 0 < result.again.trials <= result.again.of <= result.trials_new
    assert result.again.otherwise == 0
    assert result.notes[-1] == result.again.sentence
    assert result.versions["backend"] == versions()["backend"]
    assert store.count() == result.trials_new + result.again.trials  # under keys of their own
    second = run_study(tiny(), select(("fewer-steps",)), store, settings)
    assert second.again == result.again
    assert store.count() == result.trials_new + result.again.trials


def test_what_cannot_run_again_is_said_before_a_trial_runs(store, tiny):
    for name, error, words in (
        ("refrence", BackendError, "did you mean reference"),
        ("numba", StudyError, "another backend than that of the study"),
        ("triton", StudyError, "serves NVIDIA GPUs"),
    ):
        with pytest.raises(error, match=words):
            run_study(tiny(), select(("placement",)), store, Settings(seeds=1, steps=2, again_with=name))
    assert store.count() == 0
