"""What tests and studies say of a sentence of the literature: for it or against it, in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shared.answers import MAIN, Run, answer_of

from normsmith.studies import notation
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
    "could not be shown": Verdict.NOT_JUDGED,
    "not judged": Verdict.NOT_JUDGED,
}
"""The verdict in whose colour a side is shown."""
MORE = {"points": ("better", "worse"), "steps to target": ("more", "fewer")}
"""What is said of values above and below those of the control, by their unit; otherwise that they are more or less."""


@dataclass(frozen=True)
class Finding:
    """One hypothesis that tests a sentence: what it says, which side the answer is on, and the numbers."""

    hypothesis: str
    side: str
    numbers: str
    verdict: Verdict
    task: str

    @property
    def colour(self) -> Verdict:
        """The verdict in whose colour its side is shown."""
        return COLOURS[self.side]

    @property
    def on(self) -> str:
        """The task, where it is another than the explorer's network."""
        return "" if self.task == MAIN else f" (on {self.task})"


def findings(evidence: Iterable[dict[str, Any]], runs: list[Run]) -> tuple[list[Finding], list[str]]:
    """What was answered of a sentence's evidence, and the questions that were not answered yet.

    Args:
        evidence: in sentences.json; each has a `question`, of which all effects count or those whose names have the
            pattern `effects`, and says whether a hypothesis that holds speaks `against` the sentence.
        runs: the answers of the studies, as `scripts/shared/answers.py` has them.
    """
    answered, open_questions = [], []
    for each in evidence:
        known = answer_of(each["question"], runs)
        if known is None:
            open_questions.append(each["question"])
            continue
        run, answer = known
        answered += [
            finding(effect, run["task"], answer["notes"], against=each.get("against", False))
            for effect in map(Effect.model_validate, answer["effects"])
            if re.search(each.get("effects", ""), effect.name)
        ]
    return answered, list(dict.fromkeys(open_questions))


def finding(effect: Effect, task: str, notes: Iterable[str], *, against: bool) -> Finding:
    """An effect as a finding; `against` where its hypothesis says the opposite of the sentence."""
    side = SIDES[effect.verdict]
    ceiling = any(note.startswith("A ceiling") and f"“{effect.control}”" in note for note in notes)
    if ceiling and effect.verdict is Verdict.NOT_HERE:
        side = "could not be shown"
    return Finding(
        effect.hypothesis,
        OPPOSITE.get(side, side) if against else side,
        numbers(effect),
        effect.verdict,
        task,
    )


def numbers(effect: Effect) -> str:
    """Size, direction and margin of an effect, with the seeds that have them.

    `0.55× the steps to target (0.42× to 0.77×, 95 % interval); fewer in 17 of 20 seeds, more in 3. The margin: below
    0.67× in 14 of 20.`
    """
    seeds, of_unit = len(effect.seeds), f" the {effect.unit}" if effect.scale == "ratio" else ""
    size = (
        f"{notation.estimate(effect)}{of_unit} ({notation.ends(effect)}, {notation.interval_name([effect])})"
    )
    direction = f"; {directions(effect)}" if effect.kind == "superiority" else ""
    enough = ""
    if effect.verdict is Verdict.INCONCLUSIVE and effect.needed:
        enough = f", where {effect.needed} are always enough"
    margin = f"The margin: {notation.margin(effect)} in {effect.beyond} of {seeds} seeds{enough}."
    return f"{size}{direction}. {margin}"


def directions(effect: Effect) -> str:
    """How many seeds have more than the control, and how many less, the larger number first."""
    above, below = MORE.get(effect.unit, ("more", "less"))
    as_claimed = sum(low > 0 for low, _ in effect.effects)
    against = sum(high < 0 for _, high in effect.effects)
    same = sum(low == high == 0 for low, high in effect.effects)
    counts = dict(
        zip(
            (above, below) if effect.better == "higher" else (below, above),
            (as_claimed, against),
            strict=True,
        )
    )
    counts |= {"the same": same, "not known": len(effect.seeds) - as_claimed - against - same}
    seen = sorted(((n, word) for word, n in counts.items() if n), key=lambda each: -each[0])
    (most, word), *rest = seen
    return ", ".join([f"{word} in {most} of {len(effect.seeds)} seeds", *(f"{w} in {n}" for n, w in rest)])
