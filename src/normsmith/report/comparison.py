"""A comparison of two stores, for readers: as text, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from normsmith._text import count, number, one_line
from normsmith.studies.comparison import Comparison, HypothesisCompared, OtherVersions, Said

_MOST = 5  # trials named one by one


def comparison_to_json(comparison: Comparison) -> str:
    """The whole comparison."""
    whole = {**asdict(comparison), "agree": comparison.agree, "is_empty": comparison.is_empty}
    return json.dumps(whole, indent=2)


def comparison_to_text(comparison: Comparison) -> str:
    """What the stores have in common, what differs, and what contradicts, in lines."""
    return "\n".join(one_line(line, most=1000) for line in _lines(comparison))


def _lines(comparison: Comparison) -> Iterator[str]:
    trials, same = comparison.trials, comparison.same_key
    yield f"first:  {comparison.first}, {count(trials[0], 'trial')}"
    yield f"second: {comparison.second}, {count(trials[1], 'trial')}"
    equal = same.both - same.unfinished - len(same.unequal)
    unfinished = f", {same.unfinished:,} did not finish in one of the stores" if same.unfinished else ""
    yield (
        f"In both under the same key: {count(same.both, 'trial')}; {equal:,} have the same results to the last bit, "
        f"{len(same.unequal):,} have others{unfinished}."
    )
    for unequal in same.unequal[:_MOST]:
        yield f"  NOT THE SAME: {unequal.arm}: {unequal.what} (key {unequal.key})"
    if len(same.unequal) > _MOST:
        yield f"  and {len(same.unequal) - _MOST:,} more"
    for group in comparison.other_versions:
        yield from _group(group)
    if not comparison.other_versions:
        yield "Computed by other versions, backends or instruction sets: no trial."
    yield f"Hypotheses that studies of both put to the test: {len(comparison.hypotheses):,}."
    for hypothesis in comparison.hypotheses:
        yield _hypothesis(hypothesis)
    yield _conclusion(comparison)


def _group(group: OtherVersions) -> Iterator[str]:
    versions = "; ".join(f"{name} {here} and {there}" for name, (here, there) in group.versions.items())
    yield f"Computed by other versions ({versions}): {count(group.pairs, 'trial')} of {group.task}."
    otherwise = f"; {count(group.otherwise, 'trial')} finished in one store only" if group.otherwise else ""
    yield (
        f"  {group.finished:,} finished in both: the final test metric is higher in the second store in "
        f"{group.higher:,}, lower in {group.lower:,}; it differs by {number(group.median)} {group.unit} in the median, "
        f"{number(group.largest)} at most; steps to 90 % of the way by {group.largest_steps} at most{otherwise}."
    )


def _hypothesis(compared: HypothesisCompared) -> str:
    mark = "CONTRADICTION: " if compared.is_contradiction else ""
    what = f"{compared.task}, {compared.question}, {compared.name}"
    return f"  {mark}{what}: {_said(compared.first)} | {_said(compared.second)}"


def _said(said: Said) -> str:
    return f"{said.verdict.value}, {said.estimate}, {count(said.seeds, 'seed')}"


def _conclusion(comparison: Comparison) -> str:
    if comparison.is_empty:
        return (
            "Nothing was compared: the stores have no trial and no hypothesis in common, as those of other tasks or "
            "questions have not."
        )
    if comparison.agree:
        return "Nothing contradicts."
    parts = []
    if comparison.contradictions:
        parts.append(f"{count(len(comparison.contradictions), 'verdict')} contradict")
    if comparison.same_key.unequal:
        parts.append(
            f"{count(len(comparison.same_key.unequal), 'trial')} with other results under the same key"
        )
    return f"The stores do not agree: {', '.join(parts)}."
