"""What the studies say of a sentence of the literature: for it or against it, in the words of the gallery."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shared import findings
from shared.answers import MAIN, Run, answer_of

from normsmith.studies.results import Effect, Verdict

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
    """

    found: findings.Finding
    task: str
    opposite: bool

    @property
    def side(self) -> str:
        """Whether it is for the sentence or against it."""
        if self.found.ceiling:
            return findings.IMPOSSIBLE
        side = SIDES[self.found.effect.verdict]
        return OPPOSITE.get(side, side) if self.opposite else side

    @property
    def colour(self) -> Verdict:
        """The verdict in whose colour its side is shown."""
        return COLOURS[self.side]

    @property
    def on(self) -> str:
        """The task, where it is another than the explorer's network."""
        return "" if self.task == MAIN else f"On {self.task}."


def evidence_of(asked: Iterable[dict[str, Any]], runs: list[Run]) -> tuple[list[Evidence], list[str]]:
    """What was answered for a sentence, and the questions that were not answered yet.

    Args:
        asked: the `evidence` of a sentence in sentences.json; each has a `question`, of which all effects count or
            those whose names have the pattern `effects`, and says whether a hypothesis that holds speaks `against` it.
        runs: the answers of the studies, as `scripts/shared/answers.py` has them.
    """
    answered, unanswered = [], []
    for each in asked:
        known = answer_of(each["question"], runs)
        if known is None:
            unanswered.append(each["question"])
            continue
        run, answer = known
        effects = [Effect.model_validate(effect) for effect in answer["effects"]]
        answered += [
            Evidence(found, run["task"], each.get("against", False))
            for found in findings.findings_of(each["question"], effects, answer["notes"])
            if re.search(each.get("effects", ""), found.effect.name)
        ]
    return answered, list(dict.fromkeys(unanswered))
