"""A sample of a study's trials, run again on another backend: do its values hang on what computes them?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

from normsmith import _text
from normsmith.studies._inference import ALPHA, tail
from normsmith.studies.results import Again
from normsmith.studies.trial import Outcome

SAMPLE = 40
"""How many trials run again, at most. What happens in one of 14 is then seen with 95 % probability."""

SLIGHT = 0.1
"""Differences of so many points are no matter, even if they are all to one side."""

WAY = 0.9
"""Steps are compared to this part of the way from the untrained network to the worse of the two ends."""

T = TypeVar("T")


def sample(trials: Sequence[T], most: int = SAMPLE) -> list[T]:
    """So many of the trials, evenly spread over the order in which they were asked for.

    >>> sample(range(10), 4)
    [0, 2, 5, 7]
    """
    count = min(most, len(trials))
    return [trials[len(trials) * i // count] for i in range(count)]


@dataclass
class Differences:
    """How trials end that two computed: how often otherwise, and by how much the final test metrics of others differ.

    Attributes:
        pairs: how many trials were added.
        otherwise: how many finished with one and did not with the other.
        changes: from the first to the other, of those that finished with both.
        steps: how many steps more the other one takes to 90 % of the way.
    """

    pairs: int = 0
    otherwise: int = 0
    changes: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def add(self, first: Outcome, other: Outcome) -> None:
        """Count the two outcomes of one trial."""
        self.pairs += 1
        self.otherwise += first.status != other.status
        if first.status == other.status == "finished":
            self.changes.append(other.test[-1] - first.test[-1])
            self.steps.append(_steps(first, other))

    @property
    def higher(self) -> int:
        """How many end with a higher metric with the other."""
        return sum(change > 0 for change in self.changes)

    @property
    def lower(self) -> int:
        """How many end with a lower one."""
        return sum(change < 0 for change in self.changes)

    @property
    def largest(self) -> float:
        """The largest difference of final metrics."""
        return max(map(abs, self.changes), default=0.0)

    @property
    def median(self) -> float:
        """The median of the differences, whichever is higher."""
        return median(map(abs, self.changes)) if self.changes else 0.0

    @property
    def largest_steps(self) -> int:
        """The largest difference in steps."""
        return max(map(abs, self.steps), default=0)

    def is_one_sided(self, point: float) -> bool:
        """Whether the differences are to one side more than chance has it (5 %), and not all slight."""
        certain = 2 * tail(self.higher + self.lower)[max(self.higher, self.lower)] <= ALPHA
        return bool(certain and self.largest / point > SLIGHT)


def compared(backend: str, of: int, pairs: Sequence[tuple[Outcome, Outcome]], point: float) -> Again:
    """How outcomes differ from those of the same trials on another backend.

    Args:
        backend: the row of the table of backends that computed the second outcome of each pair.
        of: how many trials the pairs are a sample of.
        pairs: the study's outcome and the other, for each trial of the sample.
        point: how much of the metric is a point.
    """
    differences = Differences()
    for first, other in pairs:
        differences.add(first, other)
    again = Again(
        backend=backend,
        of=of,
        trials=differences.pairs,
        finished=len(differences.changes),
        otherwise=differences.otherwise,
        higher=differences.higher,
        lower=differences.lower,
        largest=differences.largest / point,
        largest_steps=differences.largest_steps,
        agree=bool(differences.changes) and not differences.is_one_sided(point) and not differences.otherwise,
        sentence="",
    )
    return again.model_copy(update={"sentence": _sentence(again)})


def _steps(first: Outcome, other: Outcome) -> int:
    """How many steps more the other one takes to the same level."""
    start, ends = first.test[0], (first.test[-1], other.test[-1])
    end = min(ends, key=lambda value: abs(value - start))
    level, up = start + WAY * (end - start), end >= start

    def reached(outcome: Outcome) -> int:
        steps = zip(outcome.steps, outcome.test, strict=True)
        return next(
            (step for step, value in steps if (value >= level if up else value <= level)), outcome.steps[-1]
        )

    return reached(other) - reached(first)


def _sentence(again: Again) -> str:
    whole = again.trials == again.of
    share = "all" if whole else f"{again.trials} of the"
    which = f"{share} {_text.count(again.of, 'trial')} whose values are compared"
    ran = f"Run again with {again.backend}: {which}{'' if whole else f' ({100 * again.trials / again.of:.0f} %)'}."
    if not again.finished:
        return f"{ran} None of them finished on both backends: nothing can be said."
    same = again.finished - again.higher - again.lower
    found = (
        f"The final test metric is the same to the last bit in {same} of {again.finished} that finished, higher in "
        f"{again.higher}, lower in {again.lower}; the largest difference is {_text.number(again.largest)} points, that "
        f"of steps to {100 * WAY:.0f} % of the way {again.largest_steps}."
    )
    ended = (
        f" {_text.count(again.otherwise, 'trial')} ended otherwise (finished or not)."
        if again.otherwise
        else ""
    )
    said = f"The values agree: {_how(again)}."
    if not again.agree:
        said = "The values do not agree, and verdicts may hang on the backend: run the whole study with it."
    if not whole:
        missed = _text.number(100 * (1 - ALPHA ** (1 / again.trials)), 2)
        said += f" A sample this small misses with 5 % probability what happens in {missed} % of the trials."
    return f"{ran} {found}{ended} {said}"


def _how(again: Again) -> str:
    """In which way values agree."""
    if again.higher + again.lower == 0:
        return "they are the same"
    return (
        f"no two differ by more than {SLIGHT} points"
        if again.largest <= SLIGHT
        else "they differ to either side as chance has it"
    )
