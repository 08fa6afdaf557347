"""What was found on a hypothesis, in one plain sentence: direction and size first, then whether the margin is decided.

All figures come from the effects as they are kept. What a hypothesis is about, and which words its two directions have,
stands in `shared/hypotheses.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from normsmith._text import count, exact, number, ratio
from normsmith.studies import notation
from normsmith.studies.results import Effect, Verdict
from normsmith.studies.statistics import ALPHA, pairs_needed
from normsmith.studies.trial import evaluation_steps
from shared.facts import hinders
from shared.hypotheses import wording
from shared.wording import Wording

IMPOSSIBLE = "could not be shown here"
"""In place of a verdict, where the control was so good that there was no room for what was claimed."""
CEILING = re.compile(r"A ceiling: “(?P<control>.*?)” is at (?P<at>[\d.]+) of (?P<most>[\d.]+) points")
_NEITHER = "either network reach the target"
_CLOSE = 1.05
"""Two ends of an estimate that differ by less than this factor are one number to a reader."""


@dataclass(frozen=True)
class Finding:
    """What was found on one hypothesis.

    Attributes:
        effect: the hypothesis with its effects.
        needed: how many seeds on one side decide it where it stands in its question; None where none suffice.
        ceiling: why there was no room for the claim, as `what it is compared with is at 96.4 of 100 points already`.
        words: what the hypothesis is about.
        out_of_reach: whether no network of the question reached the target.
    """

    effect: Effect
    needed: int | None
    ceiling: str
    words: Wording
    out_of_reach: bool = False

    @property
    def nothing(self) -> bool:
        """Whether nothing can be said, as neither network got to where they are compared."""
        return self.out_of_reach or all(map(_unknown, self.effect.effects))

    @property
    def shown(self) -> Verdict:
        """The verdict in whose colour it is shown: what could not come out otherwise is no answer."""
        if self.nothing:
            return Verdict.INCONCLUSIVE
        return Verdict.NOT_JUDGED if self.ceiling else self.effect.verdict

    @property
    def verdict(self) -> str:
        """The verdict as a reader should take it."""
        return IMPOSSIBLE if self.ceiling else self.shown.value

    @property
    def hypothesis(self) -> str:
        """What was asked, as a sentence."""
        text = self.words.asks or self.effect.hypothesis
        return f"{text[0].upper()}{text[1:]}."

    @property
    def margin(self) -> str:
        """What the claim asks for: `at most 0.67× the steps`."""
        return self.words.asked or _asked(self.effect, self.words)

    @property
    def sides(self) -> str:
        """How many seeds are beyond what was asked and how many short of it: `14 : 6`; a dash where none could be."""
        if self.ceiling or self.nothing:
            return "–"
        return f"{self.effect.beyond} : {self.effect.short}"

    @property
    def sentence(self) -> str:
        """Direction and size first, then what was asked and whether so many seeds decide it, then what that means."""
        if self.nothing:
            seeds = count(len(self.effect.seeds), "seed")
            which = (
                "either network reach the target at any rate" if self.words.size == "octaves" else _NEITHER
            )
            return f"Nothing can be said: in none of {seeds} did {which}."
        parts = [f"{self.words.lead} {_direction(self.effect, self.words)}", self._decided()]
        means = self.words.means.get(self.effect.verdict, "")
        asides = _never(self.effect), _failed(self.effect), means
        return " ".join(filter(None, (f"{'; '.join(filter(None, parts))}.", *asides)))

    @property
    def certainty(self) -> str:
        """The interval of the typical seed, and the p-value of the side that decides; empty if nothing can be said."""
        effect = self.effect
        if self.nothing:
            return ""
        text = f"{notation.interval_name([effect])} of the typical seed: {_ends(effect, self.words)}"
        if effect.test_error is not None:
            text += f"; another sample of test data would move it by about {number(effect.test_error, 2)}"
        if self.shown in (Verdict.NOT_JUDGED, Verdict.INCONCLUSIVE):
            return text
        side = "beyond" if effect.verdict is Verdict.HOLDS else "short of"
        shown = "below 0.0001" if effect.p_adjusted < 1e-4 else f"{effect.p_adjusted:.2g}"
        return f"{text}; adjusted p-value of so many seeds {side} what was asked: {shown}"

    def _decided(self) -> str:
        """Whether what the claim asks for was shown."""
        effect, seeds = self.effect, str(len(self.effect.seeds))
        asked = f"that {'they are' if 'each other' in self.margin else 'it is'} {self.margin}"
        if self.ceiling:
            return f"{asked} {IMPOSSIBLE}, as {self.ceiling}"
        if effect.verdict is Verdict.NOT_JUDGED:
            return f"{self.margin} in {effect.beyond} of {seeds} (not judged)"
        if reason := _reason(effect):
            return f"{asked} is not decided, as {reason}"
        needed = f"{self.needed} needed" if self.needed else "more seeds needed"
        if effect.verdict is Verdict.HOLDS:
            return f"{asked} is shown ({effect.beyond} of {seeds}, {needed})"
        if effect.verdict is Verdict.INCONCLUSIVE:
            short = f", {effect.short} fall short" if effect.beyond + effect.short < len(effect.seeds) else ""
            return f"{asked} is undecided ({effect.beyond} of {seeds}{short}, {needed})"
        reversed_ = "; the opposite is shown" if effect.verdict is Verdict.REVERSED else ""
        return f"{asked} does not hold here ({effect.short} of {seeds} fall short, {needed}){reversed_}"


def findings_of(question: str, effects: Sequence[Effect], notes: Iterable[str] = ()) -> list[Finding]:
    """What was found on all hypotheses of a question, in their order."""
    notes = tuple(notes)
    needed, full, out = _needed(effects), _ceilings(notes), any(map(hinders, notes))
    return [
        Finding(
            effect,
            needed.get(effect.name),
            full.get(effect.control, "") if _without_room(effect) else "",
            wording(question, effect),
            out,
        )
        for effect in effects
    ]


def findings_in(answer: Mapping[str, Any], run: Mapping[str, Any]) -> list[Finding]:
    """What was found on all hypotheses of a kept answer, where the steps of its arms are known too."""
    effects = [Effect.model_validate(effect) for effect in answer["effects"]]
    found = findings_of(answer["question"], effects, answer.get("notes", ()))
    steps, medians = run.get("task_facts", {}).get("steps", ""), _steps_of_arms(answer.get("arms"))
    if not steps.isdigit():
        return found
    first = evaluation_steps(int(steps))[:2]
    return [replace(each, ceiling=each.ceiling or _at_once(each, medians, first)) for each in found]


def _steps_of_arms(arms: Mapping[str, Any] | None) -> dict[str, float]:
    """By arm: after how many steps the middle seed had reached the target, where it did."""
    if not arms or "steps to target" not in arms["columns"]:
        return {}
    column = arms["columns"].index("steps to target")
    known = ((row[0], re.match(r"[\d.]+", row[column])) for row in arms["rows"])
    return {arm: float(match[0]) for arm, match in known if match}


def _at_once(found: Finding, medians: Mapping[str, float], first: Sequence[int]) -> str:
    """Why fewer steps could not be shown, where the control is there at the first measurement in too many seeds."""
    effect, seeds = found.effect, len(found.effect.seeds)
    open_ = effect.verdict in (Verdict.NOT_HERE, Verdict.INCONCLUSIVE) and effect.better == "lower"
    if not (open_ and effect.unit.startswith("steps") and effect.control in medians and found.needed):
        return ""
    middle = medians[effect.control]  # of an even number of seeds the mean of two
    at_once = seeds // 2 + 1 if middle <= first[0] else seeds // 2 if middle < first[1] else 0
    if seeds - at_once >= found.needed:
        return ""
    return (
        f"what it is compared with reaches the target at the first measurement, step {first[0]}, in at least "
        f"{at_once} of {seeds} seeds"
    )


def _p(effect: Effect) -> float:
    """The p-value by which a hypothesis is judged: where something else decided, the numbers do not speak."""
    return 1.0 if _reason(effect) else effect.p


def _reason(effect: Effect) -> str:
    """Why the numbers may not speak, if something else decided: its sentence has no interval then."""
    if notation.interval_name([effect]) in effect.sentence:
        return ""
    return effect.sentence.partition(": ")[2].rstrip(".")


def _without_room(effect: Effect) -> bool:
    """Whether a ceiling over the control would matter: the claim is of points above it, and was not shown."""
    shown = effect.verdict not in (Verdict.NOT_HERE, Verdict.INCONCLUSIVE)
    return not shown and effect.unit == "points" and effect.better == "higher"


def _ceilings(notes: Iterable[str]) -> dict[str, str]:
    """By the name of a control, what it reached where that left no room for an effect."""
    found = (match for note in notes for match in CEILING.finditer(note))
    return {
        match["control"]: f"what it is compared with is at {match['at']} of {match['most']} points already"
        for match in found
    }


def _needed(effects: Sequence[Effect]) -> dict[str, int | None]:
    """How many seeds on one side decide each judged hypothesis, since those of a question share the 5 %.

    Holm's order: the clearest is judged against all, and each that is decided leaves more for the others. One that
    rests on another is judged once that is shown.
    """
    judged = {effect.name: effect for effect in effects if effect.verdict is not Verdict.NOT_JUDGED}
    waiting = [name for name, effect in judged.items() if effect.after not in judged]
    needed: dict[str, int | None] = {}
    while waiting:
        clearest = judged[min(waiting, key=lambda name: _p(judged[name]))]
        level = len(waiting)
        if _p(clearest) * level > ALPHA * clearest.share:
            break
        needed[clearest.name] = pairs_needed(len(clearest.seeds), level, clearest.share)
        waiting.remove(clearest.name)
        if clearest.verdict is Verdict.HOLDS:
            waiting += [name for name, effect in judged.items() if effect.after == clearest.name]
    open_ = len(judged) - len(needed)
    rest = {
        name: pairs_needed(len(of.seeds), open_, of.share)
        for name, of in judged.items()
        if name not in needed
    }
    return needed | rest


def _direction(effect: Effect, words: Wording) -> str:
    """`faster in 17 of 20 seeds, typically 0.55× the steps`, with the seeds of the other side where there are some."""
    seeds = len(effect.seeds)
    more, less = (sum(low > 0 for low, _ in effect.effects), sum(high < 0 for _, high in effect.effects))
    level = sum(low == high == 0 for low, high in effect.effects)
    hidden = seeds - more - less - level  # neither arm got there
    sides = [(more, words.more), (less, words.less), (level, words.level), (hidden, "not known")]
    most, *others = sorted((side for side in sides if side[0]), key=lambda side: -side[0])
    rest = ", ".join(f"{word} in {n}" for n, word in others)
    aside = f" ({rest})" if rest else ""
    return f"{most[1]} in {most[0]} of {count(seeds, 'seed')}{aside}, typically {_size(effect, words)}"


def _size(effect: Effect, words: Wording) -> str:
    """The effect of the typical seed, one number where its two ends are nearly one."""
    low, high = effect.median
    middle = (low + high) / 2
    if math.isnan(middle):  # it is open on both sides
        return "not known"
    if words.size == "value":
        return number(words.zero + notation.shown(effect, middle))
    if effect.median == (0.0, 0.0):
        return "no difference"
    if words.size == "octaves":
        octaves = notation.shown(effect, middle)
        return f"{ratio(2**octaves)} ({exact(octaves)} {'octave' if octaves == 1 else 'octaves'})"
    if effect.scale == "ratio":
        left, right = sorted((notation.shown(effect, low), notation.shown(effect, high)))
        near = right < _CLOSE * left
        shown = ratio(notation.shown(effect, middle)) if near else notation.span(effect, effect.median)
        return f"{shown}{_unit(effect)}"
    return f"{notation.span(effect, effect.median)}{_unit(effect)}"


def _ends(effect: Effect, words: Wording) -> str:
    """The ends of the interval with their unit."""
    if words.size == "value":
        return " to ".join(number(words.zero + notation.shown(effect, end)) for end in effect.interval)
    if effect.unit.startswith("steps") and any(map(math.isinf, effect.interval)):
        return f"steps: {notation.ends(effect)}"
    return f"{notation.ends(effect)}{_unit(effect, effect.interval[1])}"


def _unit(effect: Effect, value: float | None = None) -> str:
    """The unit after a number, in plain words."""
    if effect.scale == "ratio":
        return " the steps" if effect.unit.startswith("steps") else ""
    unit = notation.unit(effect, effect.median[0] if value is None else value)
    return (
        unit.replace(" of the gap", "")
        .replace("gain", "scale factor")
        .replace("share of units", "of all units")
    )


def _asked(effect: Effect, words: Wording) -> str:
    """What a claim asks for, from its margin."""
    if effect.kind == "equivalence":
        return f"{notation.margin(effect)} of each other".replace("within ±", "within ")
    if effect.scale == "ratio":
        bound = "at most" if effect.better == "lower" else "at least"
        return f"{bound} {ratio(round(notation.shown(effect, effect.margin), 3))}{_unit(effect)}"
    if effect.unit in (
        "octaves",
        "gains",
    ):  # counted whole, so that the margin is a half less than what is asked
        least = effect.margin + 0.5
        return f"at least {number(least)}{_unit(effect, least)} {words.more}"
    return f"more than {number(effect.margin)}{_unit(effect, effect.margin)} {words.more}"


def _failed(effect: Effect) -> str:
    """A median hides runs that diverged."""
    named = zip((effect.treatment, effect.control), effect.failed, strict=True)
    said = [f"{arm} diverged in {n} of {count(len(effect.seeds), 'seed')}" for arm, n in named if n]
    return f"But {' and '.join(said)}." if said else ""


def _never(effect: Effect) -> str:
    """In how many seeds the networks did not reach the target, where steps to it are compared and some did not."""
    if not effect.unit.startswith("steps"):
        return ""
    never = (
        sum(math.isinf(low) for low, _ in effect.effects),
        sum(math.isinf(high) for _, high in effect.effects),
    )
    named = zip((effect.treatment, effect.control), never, strict=True)
    said = [f"“{arm}” in {n} of {count(len(effect.seeds), 'seed')}" for arm, n in named if n]
    return f"The target was never reached by {' and by '.join(said)}." if said else ""


def _unknown(ends: tuple[float, float]) -> bool:
    return all(map(math.isinf, ends))
