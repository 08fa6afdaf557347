"""Which verdicts differ, and which contradict."""

from normsmith.studies.results import Verdict
from normsmith.studies.verdicts import contradictions, differing

SAID = {
    "same": {"a": Verdict.HOLDS, "b": Verdict.HOLDS},
    "opposite": {"a": Verdict.HOLDS, "b": Verdict.REVERSED, "c": Verdict.INCONCLUSIVE},
    "not here": {"a": Verdict.HOLDS, "b": Verdict.NOT_HERE},
    "open": {"a": Verdict.HOLDS, "b": Verdict.INCONCLUSIVE},
    "not judged": {"a": Verdict.NOT_JUDGED, "b": Verdict.REVERSED},
    "alone": {"a": Verdict.HOLDS},
}


def test_what_leaves_a_hypothesis_open_contradicts_nothing():
    assert differing(SAID) == ["opposite", "not here", "open", "not judged"]
    assert contradictions(SAID) == ["opposite", "not here"]
