"""A sample of a study's trials, run again on another backend: do its values hang on what computes them?"""

from __future__ import annotations

from collections.abc import Sequence
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


def compared(backend: str, of: int, pairs: Sequence[tuple[Outcome, Outcome]], point: float) -> Again:
    """How outcomes differ from those of the same trials on another backend.

    Args:
        backend: the row of the table of backends that computed the second outcome of each pair.
        of: how many trials the pairs are a sample of.
        pairs: the study's outcome and the other, for each trial of the sample.
        point: how much of the metric is a point.
    """
    kept = [pair for pair in pairs if all(outcome.status == "finished" for outcome in pair)]
    changes = [other.test[-1] - first.test[-1] for first, other in kept]
    higher, lower = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    largest = max((abs(change) / point for change in changes), default=0.0)
    one_sided = 2 * tail(higher + lower)[max(higher, lower)] <= ALPHA and largest > SLIGHT
    otherwise = sum(first.status != other.status for first, other in pairs)
    again = Again(
        backend=backend,
        of=of,
        trials=len(pairs),
        finished=len(kept),
        otherwise=otherwise,
        higher=higher,
        lower=lower,
        largest=largest,
        largest_steps=max((abs(_steps(*pair)) for pair in kept), default=0),
        agree=bool(kept) and not one_sided and not otherwise,
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
