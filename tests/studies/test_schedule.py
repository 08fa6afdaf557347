"""Which question comes first with a budget: the one that decides a hypothesis in the fewest further seconds."""

from tests.studies.claims import FAST, SLOW, a_hypothesis, pairs_of

from normsmith.studies.arms import AS_IS
from normsmith.studies.looks import LOOKS
from normsmith.studies.rehearsal import Rehearsal
from normsmith.studies.schedule import schedule
from normsmith.studies.statistics import judge
from normsmith.studies.trial import Trial


def rehearsal(trials, judged=1):
    claims = [pairs_of(FAST, SLOW, a_hypothesis(name=str(number))) for number in range(judged + 1)]
    return Rehearsal((tuple(trials),), judge(claims, most=judged))


def trials(first, last, rate=0.1):
    return [Trial(AS_IS, rate, seed, 10) for seed in range(first, last)]


def order(**questions):
    """The schedule of one look, a second a trial."""
    parts = schedule({LOOKS[0]: questions}, len)
    return [(part.question, part.seconds) for part in parts]


def test_the_cheapest_hypothesis_comes_first():
    one, two = trials(0, 4, 0.1), trials(0, 6, 0.2)
    assert order(a=rehearsal(two), b=rehearsal(one)) == [("b", 4), ("a", 6)]
    assert order(a=rehearsal(two, judged=2), b=rehearsal(one)) == [("a", 6), ("b", 4)]


def test_what_others_run_anyway_costs_nothing():
    """`c` is the longest alone, and almost free after `a`."""
    shared, other = trials(0, 5, 0.1), trials(0, 7, 0.2)
    assert order(c=rehearsal([*shared, *trials(8, 9)]), b=rehearsal(other), a=rehearsal(shared)) == [
        ("a", 5), ("c", 1), ("b", 7),
    ]  # fmt: skip


def test_what_judges_nothing_comes_last():
    assert [name for name, _ in order(a=rehearsal(trials(0, 1), 0), b=rehearsal(trials(0, 9, 0.2)))] == [
        "b",
        "a",
    ]


def test_second_looks_come_after_all_first_ones_and_add_their_seeds():
    small, large = ({"a": rehearsal(trials(0, n, 0.1)), "b": rehearsal(trials(0, n, 0.2))} for n in (3, 5))
    parts = schedule(dict(zip(LOOKS, (small, large), strict=True)), len)
    assert [(part.question, part.look.number, part.seconds) for part in parts] == [
        ("a", 1, 3), ("b", 1, 3), ("a", 2, 2), ("b", 2, 2),
    ]  # fmt: skip
    assert {trial.seed for trial in parts[-1].trials} == {3, 4}
