"""How much a sentence's hypotheses ask for, and in how many seeds that is so: a verdict alone hides both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from explore.evidence import Evidence
from normsmith.studies.results import Verdict


def asked(evidence: Iterable[Evidence]) -> list[str]:
    """`At most 0.67× the steps: in 14 and 0 of 20 seeds (faster at all in 17 and 5).`, a line for each margin."""
    groups: dict[tuple[str, str, str, bool, int], list[Evidence]] = {}
    for each in evidence:
        effect, words = each.found.effect, each.found.words
        if not (effect.verdict is Verdict.NOT_JUDGED or each.found.ceiling or each.found.nothing):
            directed = effect.kind != "equivalence"
            more, less = (words.more, words.less) if directed else ("", "")
            key = _margin(each), more, less, each.opposite, len(effect.seeds)
            groups.setdefault(key, []).append(each)
    return [_line(*key, group) for key, group in groups.items()]


def _margin(evidence: Evidence) -> str:
    """What is asked for: the whole hypothesis where a margin points at other words, as `above that` does."""
    margin, hypothesis = evidence.found.margin, evidence.found.hypothesis
    return f"“{hypothesis.rstrip('.')}”" if re.search(r"\bthat\b", margin) else margin


def _line(margin: str, more: str, less: str, opposite: bool, seeds: int, group: Sequence[Evidence]) -> str:
    asked = "Asked as its opposite" if opposite else "Asked"
    met = _and(each.found.effect.beyond for each in group)
    return f"{asked}: {margin}; so in {met} of {seeds} seeds{_direction(met, more, less, group) if more else ''}."


def _direction(met: str, more: str, less: str, group: Sequence[Evidence]) -> str:
    """In how many seeds there is anything of what is asked for, and of its contrary where that is in more of them."""
    effects = [each.found.effect.effects for each in group]
    with_, against = (
        [sum(low > 0 for low, _ in seeds) for seeds in effects],
        [sum(high < 0 for _, high in seeds) for seeds in effects],
    )
    said = [f"{more} at all in {_and(with_)}"] if _and(with_) != met else []
    if any(n > m for n, m in zip(against, with_, strict=True)):
        said.append(f"{less} in {_and(against)}")
    return f" ({', '.join(said)})" if said else ""


def _and(numbers: Iterable[int]) -> str:
    """Numbers as words join them.

    >>> _and([3]), _and([3, 4]), _and([3, 4, 5]), _and([3, 3])
    ('3', '3 and 4', '3, 4 and 5', '3 each')
    """
    *first, last = map(str, numbers)
    if first and {*first} == {last}:
        return f"{last} each"
    return f"{', '.join(first)} and {last}" if first else last
