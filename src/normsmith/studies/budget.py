"""A study within a budget of time: the cheapest answers first, judged at looks that were declared beforehand.

When the time ends, each question stands at the last look that it completed; seeds that ran beyond it are kept in the
store and not looked at. A study that goes on with a larger budget comes to the same looks, at the same seeds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from normsmith import _text
from normsmith.errors import StudyError
from normsmith.studies._inference import ALPHA
from normsmith.studies.executors.executor import Workers
from normsmith.studies.lab import Lab
from normsmith.studies.looks import LOOKS, Look, is_decided
from normsmith.studies.question import Question
from normsmith.studies.rehearsal import Forecast, Rehearsal, rehearse
from normsmith.studies.results import Answer, Budget, LeftOut, Looked
from normsmith.studies.schedule import Part, schedule
from normsmith.studies.session import OutOfTimeError, Session

KINDS = 2
"""Of how many kinds of trials of each question the time is measured beforehand."""

MEASURING = 0.02
"""The part of a budget that measuring takes, at most."""


def ask_within(
    session: Session, questions: Sequence[Question], budget: float
) -> tuple[list[Answer], dict[str, str], Budget]:
    """Ask questions until the budget, in seconds from now, is spent.

    Returns:
        The answers, why other questions cannot be asked, and what the budget left out.

    Raises:
        StudyError: the budget is not enough for any first look.
    """
    session.deadline = time.monotonic() + budget
    labs = {look: replace(session.lab, seeds=tuple(range(look.seeds)), look=look) for look in LOOKS}
    rehearsals = {
        look: {question.name: rehearse(question, lab) for question in questions} for look, lab in labs.items()
    }
    skipped = session.unfit(rehearsals[LOOKS[0]])
    fitting = {question.name: question for question in questions if question.name not in skipped}
    for look in LOOKS:
        rehearsals[look] = {name: rehearsals[look][name] for name in fitting}
        needs = [rehearsal.need(name) for name, rehearsal in rehearsals[look].items()]
        session.progress.needs(look.seeds, [need for need in needs if need is not None])
    _measure(session, rehearsals[LOOKS[0]], MEASURING * budget)
    within = _Within(session, labs, fitting)
    within.run(schedule(rehearsals, session.costs.seconds), budget)
    return within.ordered(), {**skipped, **within.failed}, within.result(budget)


def _measure(session: Session, rehearsals: Mapping[str, Rehearsal], seconds: float) -> None:
    """Measure the time of the main kinds of trials of each question."""
    until = time.monotonic() + seconds
    for rehearsal in rehearsals.values():
        trials = [trial for trials in rehearsal.rounds for trial in trials]
        session.costs.measure(trials, KINDS, until)


class _Within:
    """The parts of a schedule, as long as they fit the time that is left.

    Attributes:
        answers: that of each question's last completed look, by its name.
        left_out: what the time was not enough for, by the name of the question.
        failed: the questions that could not be answered, and why.
    """

    def __init__(self, session: Session, labs: Mapping[Look, Lab], questions: Mapping[str, Question]) -> None:
        self._session, self._labs, self._questions = session, labs, questions
        self.answers: dict[str, Answer] = {}
        self.left_out: dict[str, LeftOut] = {}
        self.failed: dict[str, str] = {}

    def run(self, parts: Sequence[Part], budget: float) -> None:
        """Run what fits, in this order."""
        estimates = [(part.question, part.look.seeds, self._seconds(part)) for part in parts]
        self._session.progress.scheduled(estimates, budget)
        firsts = [self._missing_seconds(part) for part in parts if part.look.number == 1]
        if firsts and min(firsts) > budget:
            raise StudyError(
                f"budget: expected at least about {_text.duration(min(firsts))}, which the cheapest first look still "
                f"takes on {_text.count(self._session.settings.jobs, 'worker process')}, got {_text.duration(budget)}"
            )
        with self._session.workers() as workers:
            for part in parts:
                if self._goes_on(part):
                    self._run(part, workers)

    def _goes_on(self, part: Part) -> bool:
        """Whether a question comes to this look: it was not decided before, nor left out, nor has it failed."""
        name = part.question
        if name in self.failed or name in self.left_out:
            return False
        return name not in self.answers or not is_decided(self.answers[name].effects)

    def _run(self, part: Part, workers: Workers) -> None:
        """Take a look if it fits the time that is left."""
        session, question = self._session, self._questions[part.question]
        left = session.deadline - time.monotonic()
        if self._seconds(part) > left and (needed := self._missing_seconds(part)) > left:
            self._leave_out(part, needed, begun=False)
            return
        session.progress.begun(part.question, part.look.seeds, left)
        session.lab = self._labs[part.look]
        try:
            answers, failed = session.advance([question], Forecast([question], session.lab), workers)
        except OutOfTimeError:
            self._leave_out(part, self._missing_seconds(part), begun=True)
            return
        if part.question not in self.answers:
            self.failed |= failed
        for answer in answers:
            self.answers[part.question] = answer.model_copy(update={"look": _looked(part.look)})

    def _leave_out(self, part: Part, seconds: float, *, begun: bool) -> None:
        answered = self.answers.get(part.question)
        self.left_out[part.question] = LeftOut(
            question=part.question,
            answered=0 if answered is None or answered.look is None else answered.look.seeds,
            seeds=part.look.seeds,
            seconds=seconds,
            begun=begun,
        )

    def _seconds(self, part: Part) -> float:
        """What a part takes from scratch, by what has been measured until now."""
        return self._session.costs.seconds(part.trials) / self._session.settings.jobs

    def _missing_seconds(self, part: Part) -> float:
        """What a part takes beyond what is in the store."""
        missing = self._session.missing(part.trials)
        return self._session.costs.seconds(missing) / self._session.settings.jobs

    def ordered(self) -> list[Answer]:
        """The answers in the order of the questions, each with what is to be said of its look."""
        answers = [self.answers[name] for name in self._questions if name in self.answers]
        return [
            answer.model_copy(update={"notes": (*answer.notes, self._note(answer))}) for answer in answers
        ]

    def _note(self, answer: Answer) -> str:
        """At which look a question ended, and why."""
        look, left_out = answer.look, self.left_out.get(answer.question)
        if look is None or look.number == look.of:
            why = "This is the last look"
        elif left_out is None:
            why = "All that is judged was decided at the first look, and the question ended there"
        else:
            more = _text.rough_duration(left_out.seconds)
            why = f"This is the first look: the budget left out the second, about {more} more"
        return f"{declared_looks()}. {why}."

    def result(self, budget: float) -> Budget:
        """What the budget was, and what it left out."""
        left_out = tuple(self.left_out[name] for name in self._questions if name in self.left_out)
        return Budget(seconds=budget, looks=tuple(map(_looked, LOOKS)), left_out=left_out)


def _looked(look: Look) -> Looked:
    return Looked(number=look.number, of=look.of, seeds=look.seeds, alpha=ALPHA * look.share)


def declared_looks() -> str:
    """The looks in words.

    >>> declared_looks()
    'Looks at 10 and at 20 seeds were declared beforehand, with 0.8 % and 4.2 % of false statements at most'
    """
    seeds = " and at ".join(str(look.seeds) for look in LOOKS)
    parts = " and ".join(f"{_text.number(100 * ALPHA * look.share)} %" for look in LOOKS)
    return f"Looks at {seeds} seeds were declared beforehand, with {parts} of false statements at most"


def budget_note(budget: Budget) -> str:
    """What a study with a budget must say of itself: its looks, what was left out, and what that would take."""
    given = f"The budget was {_text.rough_duration(budget.seconds)}"
    if not budget.left_out:
        return f"{given}, and enough. {declared_looks()}."
    parts = [
        f"{left.question} at {left.seeds} seeds ("
        + (f"answered at {left.answered}, " if left.answered else "not answered, ")
        + f"about {_text.rough_duration(left.seconds)} more)"
        for left in budget.left_out
    ]
    return (
        f"{given}. It left out: {', '.join(parts)}. The same command with a larger budget goes on from here. "
        f"{declared_looks()}."
    )
