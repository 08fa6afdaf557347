"""What a study with a budget does, in which order, and what each part takes: known before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from normsmith.studies.looks import Look
from normsmith.studies.rehearsal import Rehearsal
from normsmith.studies.trial import Trial


@dataclass(frozen=True)
class Part:
    """One question at one look.

    Attributes:
        question: its name.
        look: at how many seeds it is judged.
        trials: what it is expected to ask for that no earlier part does.
        judged: how many hypotheses it decides at best.
        seconds: what these trials take, on all workers together.
    """

    question: str
    look: Look
    trials: tuple[Trial, ...]
    judged: int
    seconds: float


def schedule(
    rehearsals: Mapping[Look, Mapping[str, Rehearsal]], seconds: Callable[[Sequence[Trial]], float]
) -> tuple[Part, ...]:
    """The first look of every question, then the second of every question: each time the cheapest information first.

    Information is a judged hypothesis that can be decided, and its price the seconds that it takes beyond what is
    scheduled before it, since questions share trials. So the order is greedy: whatever question then takes the fewest
    seconds for each hypothesis it judges; those that judge none come last. Results have no influence on it.

    Args:
        rehearsals: by look, then by the name of the question.
        seconds: what trials take.
    """
    costs: dict[Trial, float] = {}
    for trial in (
        t for of in rehearsals.values() for r in of.values() for round_ in r.rounds for t in round_
    ):
        if trial not in costs:
            costs[trial] = seconds([trial])
    parts: list[Part] = []
    planned: set[Trial] = set()
    for look, of in rehearsals.items():
        wanted = {
            name: dict.fromkeys(t for trials in rehearsal.rounds for t in trials if t not in planned)
            for name, rehearsal in of.items()
        }
        while wanted:
            totals = {name: sum(costs[trial] for trial in trials) for name, trials in wanted.items()}
            prices = {name: _price(totals[name], len(of[name].judged)) for name in wanted}
            name = min(wanted, key=lambda name: prices[name])
            trials = tuple(wanted.pop(name))
            parts.append(Part(name, look, trials, len(of[name].judged), totals[name]))
            planned.update(trials)
            for others in wanted.values():
                for trial in trials:
                    others.pop(trial, None)
    return tuple(parts)


def _price(seconds: float, judged: int) -> tuple[float, float]:
    """Seconds for each hypothesis; of those that judge none the cheapest first, too."""
    return (seconds / judged if judged else math.inf), seconds
