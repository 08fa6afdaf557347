"""A rehearsal: every question with made-up outcomes, to say beforehand what a study takes and what decides it.

Which trials a question asks for depends on those before, so that nobody can count them before they run. In a rehearsal
every network learns best in the middle of the learning rates that are tried, which is what tuning mostly finds. What
the study really asks for replaces what was rehearsed, round by round.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from normsmith.studies.lab import Lab
from normsmith.studies.question import Question
from normsmith.studies.results import Effect, Verdict
from normsmith.studies.statistics import seeds_needed
from normsmith.studies.trial import Outcome, Trial
from normsmith.tasks import Task

_EVALUATIONS = 20
_ALIKE = 0.5
"""A request and a rehearsed round that have more than this part of their kinds of trials in common are the same."""


@dataclass(frozen=True)
class Need:
    """How many seeds must lie on one side to decide a hypothesis of a question; None if even all do not suffice.

    Attributes:
        question: its name.
        pairs: how many of the study's seeds, or None.
        seeds: with how many seeds a hypothesis could be decided.
    """

    question: str
    pairs: int | None
    seeds: int


@dataclass(frozen=True)
class Rehearsal:
    """What a question asked for, round by round, and the effects that it came to, which are as made up.

    `refused` is why it asked for nothing, if it did not: no outcome had a part in that.
    """

    rounds: tuple[tuple[Trial, ...], ...]
    effects: tuple[Effect, ...]
    refused: Exception | None = None

    @property
    def judged(self) -> tuple[Effect, ...]:
        """The hypotheses that it judges."""
        return tuple(effect for effect in self.effects if effect.verdict is not Verdict.NOT_JUDGED)

    def need(self, question: str) -> Need | None:
        """What decides; None where no hypothesis is judged."""
        judged = self.judged
        if not judged:
            return None
        leading = sum(effect.after is None for effect in judged)
        return Need(question, judged[0].needed, seeds_needed(leading, judged[0].share))


def rehearse(question: Question, lab: Lab) -> Rehearsal:
    """Ask a question with made-up outcomes; one that fails on them has asked for what it asked for."""
    stage = replace(lab, outcomes={}, compared={})
    asking = question.ask(stage)
    rounds: list[tuple[Trial, ...]] = []
    try:
        while True:
            rounds.append(tuple(next(asking)))
            stage.outcomes |= {trial: made_up(trial, lab.task) for trial in rounds[-1]}
    except StopIteration as answered:
        return Rehearsal(tuple(rounds), answered.value.effects)
    except Exception as error:  # noqa: BLE001 - what goes wrong with made-up outcomes the study itself will say
        return Rehearsal(tuple(rounds), (), None if rounds else error)


class _AnyProbe(dict[str, tuple[float, ...]]):
    """A value for whatever probe is asked for."""

    def get(self, name: str, default: Any = None) -> Any:
        return (0.5,)

    def __missing__(self, name: str) -> tuple[float, ...]:
        return (0.5,)


def made_up(trial: Trial, task: Task) -> Outcome:
    """A curve that rises (or falls, where lower is better) to its end; the best rate is in the middle of the grid."""
    grid = [math.log2(rate) for rate in task.learning_rates]
    away = abs(math.log2(trial.learning_rate) - (min(grid) + max(grid)) / 2)
    top = 0.9 / (1 + 0.01 * away)
    parts = [i / _EVALUATIONS for i in range(_EVALUATIONS + 1)]
    curve = tuple(top * (1 - math.exp(-5 * part)) for part in parts)
    if not task.higher_is_better:
        curve = tuple(1 - value for value in curve)
    steps = tuple(round(trial.steps * part) for part in parts)
    return Outcome("finished", "", steps, (0.0,) * len(steps), curve, curve, _AnyProbe())


class Forecast:
    """What a study still takes beyond the trials that its questions have asked for so far.

    Attributes:
        rehearsals: what each question asked for in its rehearsal, by its name.
        needs: how many seeds decide, of each question that judges a hypothesis.
    """

    def __init__(self, questions: Iterable[Question], lab: Lab) -> None:
        self.rehearsals = {question.name: rehearse(question, lab) for question in questions}
        needs = (rehearsal.need(name) for name, rehearsal in self.rehearsals.items())
        self.needs: tuple[Need, ...] = tuple(need for need in needs if need is not None)
        self._reached = dict.fromkeys(self.rehearsals, 0)
        """How many of its rehearsed rounds each question has come to."""
        self._first: dict[Trial, tuple[str, int]] = {}
        """Which question asks for a trial first, and in which round; others share it."""
        rehearsals = self.rehearsals
        for number in range(max((len(rehearsal.rounds) for rehearsal in rehearsals.values()), default=0)):
            for name, rehearsal in rehearsals.items():
                for trial in chain(*rehearsal.rounds[number : number + 1]):
                    self._first.setdefault(trial, (name, number))

    def asked(self, name: str, request: Sequence[Trial]) -> None:
        """A question has asked for this: find the round of its rehearsal that is most like it.

        A request that is like none, such as one more octave of a few arms, is one that was not rehearsed: what was
        rehearsed after it is still to come.
        """
        wanted, rounds = _kinds(request), self.rehearsals[name].rounds
        alike = {
            number: len(wanted & kinds) / len(wanted | kinds)
            for number in range(self._reached[name], len(rounds))
            if (kinds := _kinds(rounds[number]))
        }
        nearest = max(alike, key=lambda number: alike[number], default=None)
        if nearest is not None and alike[nearest] > _ALIKE:
            self._reached[name] = nearest + 1

    def beyond(self, names: Collection[str]) -> Sequence[Trial]:
        """The trials that are still to come from the questions that ask on."""
        return [
            trial
            for trial, (name, number) in self._first.items()
            if name in names and number >= self._reached[name]
        ]


def _kinds(trials: Iterable[Trial]) -> set[tuple[str, int, str]]:
    """What tells a round of trials from another, whatever settings were best."""
    return {(trial.arm.name, trial.steps, trial.detail) for trial in trials}
