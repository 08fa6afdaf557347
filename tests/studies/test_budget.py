"""A budget of time: cheap answers first, judged at declared looks alone, and what is left out is said."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.studies import tiny

from normsmith.errors import StudyError
from normsmith.studies import Settings, budget, run_study, select, session
from normsmith.studies.arms import AS_IS
from normsmith.studies.budget import budget_note
from normsmith.studies.question import Findings
from normsmith.studies.results import Verdict
from normsmith.studies.statistics import Hypothesis
from normsmith.studies.trial import Outcome, Trial


class Clock:
    """A clock that moves when a trial runs."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


class InProcess:
    """Ends each trial at once, after so many seconds of the clock, given how many ran before it."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.ran = clock, seconds, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start(self):
        pass

    def run(self, trials, report, tick):
        for trial in trials:
            took = self.seconds(len(self.ran))
            self.clock.now += took
            tick()  # as with workers: a trial that is under way when the time ends is lost
            self.ran.append(trial)
            report(
                trial,
                Outcome("finished", "", (0, 5), (1.0, 0.5), (0.5, 0.9), (0.5, 0.9), seconds=took),
            )


def asking(name, effect, rate=0.1):
    """A question of one trial a seed, with an effect for each seed and a margin of 1."""

    def ask(lab):
        yield [Trial(AS_IS, rate, seed, 5, "metric") for seed in lab.seeds]
        claim = Hypothesis("better", "it is better", "one", "other", "points", "difference", 1.0, "higher")
        treated, plain = ({seed: (f(seed), 0) for seed in lab.seeds} for f in (effect, lambda seed: 0.0))
        effects = lab.judge([lab.pairs(claim, treated, plain)])
        return Findings("said", effects)

    return replace(select(("placement",))[0], name=name, ask=ask)


CLEAR = asking("clear", lambda seed: 2.0)
OPEN = asking("open", lambda seed: 2.0 if seed % 2 else 0.0, rate=0.2)
LATE = asking("late", lambda seed: 0.0 if seed in (3, 14) else 2.0, rate=0.3)


@pytest.fixture
def within(store, monkeypatch):
    """Runs a study within a budget, each trial of which takes 10 s; returns its result and the trials that ran."""

    def run(seconds, *questions, a_trial=lambda before: 10.0):
        clock = Clock()
        workers = InProcess(clock, a_trial)

        monkeypatch.setattr(session.Session, "workers", lambda self: workers)
        for module in (session, budget):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
        result = run_study(tiny.task, questions, store, Settings(budget=seconds, jobs=1))
        return result, workers.ran

    return run


def stands(result):
    """For each question the seeds that its answer rests on, and its verdict."""
    return {a.question: (len(a.effects[0].seeds), a.effects[0].verdict) for a in result.answers}


def test_a_question_ends_at_the_look_that_decides_it(within):
    result, ran = within(10_000, CLEAR, OPEN, LATE)
    assert stands(result) == {
        "clear": (10, Verdict.HOLDS),
        "open": (20, Verdict.INCONCLUSIVE),
        "late": (20, Verdict.HOLDS),
    }
    assert [(a.look.number, a.look.seeds, round(a.look.alpha, 4)) for a in result.answers] == [
        (1, 10, 0.008), (2, 20, 0.042), (2, 20, 0.042),
    ]  # fmt: skip
    assert len(ran) == 50
    assert result.seeds == tuple(range(20))
    assert result.budget.left_out == ()
    assert "and enough" in result.notes[-1]
    assert "decided at the first look" in result.answers[0].notes[-1]
    assert "last look" in result.answers[1].notes[-1]


def test_seeds_that_ran_beyond_a_look_are_not_used(within):
    """The trials of the second looks take longer than was to be expected: there is time for 5 of them."""
    result, ran = within(305, LATE, OPEN, a_trial=lambda before: 10.0 if before < 20 else 20.0)
    assert len(ran) == 25
    assert stands(result) == {"late": (10, Verdict.INCONCLUSIVE), "open": (10, Verdict.INCONCLUSIVE)}
    assert [(left.question, left.answered, left.seeds) for left in result.budget.left_out] == [
        ("late", 10, 20), ("open", 10, 20),
    ]  # fmt: skip
    assert sorted(left.begun for left in result.budget.left_out) == [False, True]
    assert all("left out the second" in answer.notes[-1] for answer in result.answers)


def test_more_time_goes_on_at_the_same_looks(within):
    """Nothing that was judged is judged at other seeds, and nothing that ran runs again."""
    little, first = within(130, CLEAR, LATE, OPEN)
    more, second = within(10_000, CLEAR, LATE, OPEN)
    whole, _ = within(10_000, CLEAR, LATE, OPEN)
    assert len(first) + len(second) == 50
    assert not set(first) & set(second)
    assert stands(more) == stands(whole) == {
        "clear": (10, Verdict.HOLDS),
        "late": (20, Verdict.HOLDS),
        "open": (20, Verdict.INCONCLUSIVE),
    }  # fmt: skip
    for answer in little.answers:
        again = next(a for a in more.answers if a.question == answer.question)
        if again.look == answer.look:
            assert again.effects == answer.effects


def test_what_does_not_fit_is_not_begun(within):
    """After the first look it is known what a trial takes."""
    result, ran = within(150, CLEAR, LATE)
    assert len(ran) == 10
    (left,) = result.budget.left_out
    assert (left.answered, left.begun) == (0, False)
    assert left.seconds == pytest.approx(100, rel=0.2)
    assert f"{left.question} at 10 seeds (not answered, about 2 min more)" in result.notes[-1]


def test_a_budget_for_nothing_is_refused_with_what_is_needed(within):
    with pytest.raises(
        StudyError,
        match=r"budget: expected at least about [\d.]+ s, which the cheapest first look still takes",
    ):
        within(1e-6, CLEAR)


def test_what_fails_at_a_later_look_keeps_the_answer_of_the_first(within):
    def ask(lab):
        findings = yield from LATE.ask(lab)
        if len(lab.seeds) > 10:
            raise StudyError("nothing to compare")
        return findings

    result, _ = within(10_000, replace(LATE, ask=ask))
    assert stands(result) == {"late": (10, Verdict.INCONCLUSIVE)}
    assert result.skipped == {}


def test_questions_that_do_not_fit_the_network_are_skipped(within):
    result, _ = within(10_000, CLEAR, *select(("own-norms",)))
    assert list(stands(result)) == ["clear"]
    assert "own-norms" in result.skipped


def test_the_note_says_what_is_left_out(within):
    result, _ = within(10_000, CLEAR)
    assert budget_note(result.budget) == result.notes[-1]
    assert math.isclose(sum(look.alpha for look in result.budget.looks), 0.05)
