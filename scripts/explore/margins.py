"""How much a sentence's hypotheses ask for, and in how many seeds that is so: a verdict alone hides both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from explore.evidence import Evidence
from normsmith.studies.results import Verdict


def asked(evidence: Iterable[Evidence]) -> list[str]:
    """`At most 0.67× the steps: in 14 and 0 of 20 seeds (faster at all in 17 and 5).`, a line for each margin."""
    groups: dict[tuple[str, str, bool, int], list[Evidence]] = {}
    for each in evidence:
        effect = each.found.effect
        if effect.verdict is not Verdict.NOT_JUDGED and not each.found.ceiling:
            more = "" if effect.kind == "equivalence" else each.found.words.more
            groups.setdefault((_margin(each), more, each.opposite, len(effect.seeds)), []).append(each)
    return [_line(*key, group) for key, group in groups.items()]


def _margin(evidence: Evidence) -> str:
    """What is asked for: the whole hypothesis where a margin points at other words, as `above that` does."""
    margin, hypothesis = evidence.found.margin, evidence.found.hypothesis
    return f"“{hypothesis.rstrip('.')}”" if re.search(r"\bthat\b", margin) else margin


def _line(margin: str, more: str, opposite: bool, seeds: int, group: Sequence[Evidence]) -> str:
    met = _and(each.found.effect.beyond for each in group)
    at_all = _and(sum(low > 0 for low, _ in each.found.effect.effects) for each in group)
    direction = f" ({more} at all in {at_all})" if more and at_all != met else ""
    return (
        f"Asked{' as its opposite' if opposite else ''}: {margin}; so in {met} of {seeds} seeds{direction}."
    )


def _and(numbers: Iterable[int]) -> str:
    """Numbers as words join them.

    >>> _and([3]), _and([3, 4]), _and([3, 4, 5]), _and([3, 3])
    ('3', '3 and 4', '3, 4 and 5', '3 each')
    """
    *first, last = map(str, numbers)
    if first and {*first} == {last}:
        return f"{last} each"
    return f"{', '.join(first)} and {last}" if first else last
