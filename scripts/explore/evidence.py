"""What the studies say of a sentence of the literature: for it or against it, in the words of the gallery."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from shared import findings
from shared.answers import MAIN, Run, answer_of

from normsmith.studies.results import Verdict

SIDES = {
    Verdict.HOLDS: "for",
    Verdict.NOT_HERE: "against",
    Verdict.REVERSED: "against",
    Verdict.INCONCLUSIVE: "undecided",
    Verdict.NOT_JUDGED: "not judged",
}
"""What a verdict means for a sentence that says what the hypothesis says."""
OPPOSITE = {"for": "against", "against": "for"}
COLOURS = {
    "for": Verdict.HOLDS,
    "against": Verdict.NOT_HERE,
    "undecided": Verdict.INCONCLUSIVE,
    findings.IMPOSSIBLE: Verdict.NOT_JUDGED,
    "not judged": Verdict.NOT_JUDGED,
}
"""The verdict in whose colour a side is shown."""


@dataclass(frozen=True)
class Evidence:
    """One hypothesis that tests a sentence, with what was found on it.

    Attributes:
        found: the hypothesis and what was found, in words.
        task: what it was asked of.
        opposite: whether the hypothesis says the opposite of the sentence, so that it speaks against it where it holds.
        otherwise: whether it is there because the answer is another than on the first network.
    """

    found: findings.Finding
    task: str
    opposite: bool
    otherwise: bool = False

    @property
    def side(self) -> str:
        """Whether it is for the sentence or against it."""
        if self.found.ceiling:
            return findings.IMPOSSIBLE
        side = SIDES[self.found.shown]
        return OPPOSITE.get(side, side) if self.opposite else side

    @property
    def colour(self) -> Verdict:
        """The verdict in whose colour its side is shown."""
        return COLOURS[self.side]

    @property
    def on(self) -> str:
        """The task, where it is another than the explorer's network."""
        if self.otherwise:
            return f"Otherwise on {self.task}."
        return "" if self.task == MAIN else f"On {self.task}."


def evidence_of(asked: Iterable[dict[str, Any]], runs: list[Run]) -> tuple[list[Evidence], list[str]]:
    """What was answered for a sentence, and the questions that were not answered yet.

    After each answer stands what other networks say otherwise: where the sentence has something for it, all that have
    not; where it has not, those that decide the other way.

    Args:
        asked: the `evidence` of a sentence in sentences.json; each has a `question`, of which all effects count or
            those whose names have the pattern `effects`, says whether a hypothesis that holds speaks `against` it, and
            may name the `task` whose answer counts.
        runs: the answers of the studies, as `scripts/shared/answers.py` has them.
    """
    answered, unanswered = [], []
    for each in asked:
        known = answer_of(each["question"], [run for run in runs if each.get("task") in (None, run["task"])])
        if known is None:
            unanswered.append(each["question"])
            continue
        first = _of_run(each, known[0])
        others = [] if "task" in each else [run for run in runs if run["task"] != known[0]["task"]]
        answered += first + [
            replace(found, otherwise=True)
            for run in others
            for found in _of_run(each, run)
            if any(_same(found, one) and _otherwise(found, one.side) for one in first)
        ]
    return answered, list(dict.fromkeys(unanswered))


def _of_run(each: dict[str, Any], run: Run) -> list[Evidence]:
    """What one run answered to one entry of a sentence's evidence."""
    return [
        Evidence(found, run["task"], each.get("against", False))
        for answer in run["answers"]
        if answer["question"] == each["question"]
        for found in findings.findings_in(answer, run)
        if re.search(each.get("effects", ""), found.effect.name)
    ]


def _same(one: Evidence, other: Evidence) -> bool:
    """Whether two networks were asked the same: each has a target of its own."""
    return _without_target(one) == _without_target(other)


def _without_target(evidence: Evidence) -> str:
    return re.sub(r"\b(to|reach|reaches) [\d.]+", r"\1", evidence.found.effect.name)


def _otherwise(other: Evidence, first: str) -> bool:
    """Whether an answer is worth a word beside the first: one that decides nothing contradicts only a yes."""
    if other.found.nothing or "not judged" in (other.side, first) or other.side == first:
        return False
    return first == "for" or other.side in OPPOSITE
