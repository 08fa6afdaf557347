"""The words of a sentence on what was found: what kinds there are, and those of a hypothesis that has none of its own.

The hypotheses with words of their own are in `shared/hypotheses.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from normsmith.studies.results import Effect, Verdict


@dataclass(frozen=True)
class Wording:
    """The words for one hypothesis, or for all whose names fit.

    Attributes:
        about: a pattern that its whole name fits.
        lead: how a sentence on it begins; `{what}` is what `about` captures by that name, as all its names are.
        more: the word for a seed whose effect is in the direction of the claim.
        less: that for the other direction.
        level: that for no difference.
        asked: what its margin asks for, where code would say it less well.
        asks: the hypothesis itself, where its own text is hard to read.
        means: what a verdict on it means for the claim, where that is not plain.
        size: how the typical seed is written: as the effect, as a factor for octaves, or as the value itself, `zero`
            being what the effect is counted from.
    """

    about: str
    lead: str
    more: str = "better"
    less: str = "worse"
    level: str = "equal"
    asked: str = ""
    asks: str = ""
    means: Mapping[Verdict, str] = field(default_factory=dict)
    size: Literal["effect", "octaves", "value"] = "effect"
    zero: float = 0.0


def faster(about: str, lead: str, **words: object) -> Wording:
    """Words for a claim that one network needs fewer steps than another."""
    return Wording(about, lead, more="faster", less="slower", level="as fast", **words)  # type: ignore[arg-type]


def smaller(about: str, lead: str, **words: object) -> Wording:
    """Words for a claim that something becomes smaller."""
    return Wording(about, lead, more="smaller", less="larger", **words)  # type: ignore[arg-type]


def larger(about: str, lead: str, **words: object) -> Wording:
    """Words for a claim that something becomes larger."""
    return Wording(about, lead, more="larger", less="smaller", **words)  # type: ignore[arg-type]


def own_words(effect: Effect) -> Wording:
    """The words for a hypothesis by the arms that it compares."""
    lead = f"{effect.treatment[0].upper()}{effect.treatment[1:]} against {effect.control}:"
    if effect.unit.startswith("steps"):
        return faster("", lead)
    return larger("", lead) if effect.better == "higher" and effect.unit != "points" else Wording("", lead)
