"""Tuning of one arm at one seed: which initial weights and which learning rate are best on validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

from normsmith.studies.arms import Arm
from normsmith.studies.trial import Detail, Outcome, Trial

T = TypeVar("T")
K = TypeVar("K")
Requests: TypeAlias = Generator[Sequence[Trial], None, T]
"""A question, or a part of one: yields trials, goes on when they are done, returns T."""

OCTAVES = 4
"""How many octaves beyond the smallest and the largest of the coarse rates are tried, if the best lies there."""

KEPT = 2
"""With how many of the coarse settings a search goes on that has ranked them early."""

_SAME = 1 + 1e-9  # a rate that was typed and one that was computed may differ by rounding


@dataclass(frozen=True)
class Setting:
    """What is tuned: an arm with its initial weights, and a learning rate."""

    arm: Arm
    rate: float


@dataclass(frozen=True)
class Tuned:
    """An arm at the setting that was best for each seed on the validation split.

    Attributes:
        arm: as it is named, with the network's own initial weights.
        chosen: the setting of each seed.
        tried: the settings of each seed that ran all their steps.
        limits: the smallest and the largest rate that a search may try.
        detail: what the trials of the tried settings measure.
        ends: whether of settings that are not among the tried the metrics at the end are enough.
    """

    arm: Arm
    chosen: Mapping[int, Setting]
    tried: Mapping[int, tuple[Setting, ...]] = field(default_factory=dict)
    limits: tuple[float, float] = (0.0, math.inf)
    detail: Detail = "curve"
    ends: bool = False

    def detail_of(self, seed: int) -> Detail:
        """What the trial of a seed measures."""
        was_tried = self.chosen[seed] in self.tried.get(seed, ())
        return "metric" if self.ends and not was_tried else self.detail

    def on_limit(self, which: int) -> list[int]:
        """The seeds whose best rate is the smallest (0) or the largest (1) that a search may try."""
        return [
            seed
            for seed, setting in self.chosen.items()
            if self.limits[which] / _SAME <= setting.rate <= self.limits[which] * _SAME
        ]

    def changed(self, arm: Arm, change: Callable[[Setting], Setting]) -> Tuned:
        """Every seed's setting changed, under the name of another arm: to see what becomes of it in the end."""
        changed = {seed: change(setting) for seed, setting in self.chosen.items()}
        return replace(self, arm=arm, chosen=changed, ends=True)


def limits(rates: Iterable[float]) -> tuple[float, float]:
    """The smallest and the largest rate that a search from these coarse rates may try."""
    rates = tuple(rates)
    return min(rates) / 2**OCTAVES, max(rates) * 2**OCTAVES


@dataclass(frozen=True)
class Search:
    """The search for the best setting of one arm at one seed.

    Attributes:
        arms: the arm with each of the initial weights that are offered.
        rates: the coarse learning rates.
        seed: of the trials.
        steps: of a trial.
        rung: after how many steps the coarse settings are ranked, of which the best `KEPT` then run all their steps;
            None has all of them run all their steps.
        score: of an outcome that ran all its steps; smaller is better, and compared from left to right.
        early: the same, of an outcome at the rung.
        detail: what trials that run all their steps measure.
        stream: of the trials.
    """

    arms: tuple[Arm, ...]
    rates: tuple[float, ...]
    seed: int
    steps: int
    rung: int | None
    score: Callable[[Outcome], tuple[float, ...]]
    early: Callable[[Outcome], float]
    detail: Detail = "curve"
    stream: int = 0

    def run(self, outcomes: Mapping[Trial, Outcome]) -> Requests[tuple[Setting, tuple[Setting, ...]]]:
        """Ask for trials until the best setting is known; returns it, and those that ran all their steps.

        First the coarse settings, every initialisation at every rate; then octaves around the best, until neither half
        nor twice its rate is better, up to `OCTAVES` beyond the coarse rates.
        """
        coarse = tried = [Setting(arm, rate) for arm in self.arms for rate in self.rates]
        if self.rung is not None and len(coarse) > KEPT:
            short = {s: replace(self._trial(s), steps=self.rung, detail="metric") for s in coarse}
            yield list(short.values())
            tried = sorted(coarse, key=lambda setting: self.early(outcomes[short[setting]]))[:KEPT]
        whole = {setting: self._trial(setting) for setting in tried}
        yield list(whole.values())
        while True:
            best = min(whole, key=lambda setting: self.score(outcomes[whole[setting]]))
            status = outcomes[whole[best]].status
            from_ = (
                min(whole, key=lambda setting: setting.rate) if status == "diverged" else best
            )  # less can help
            around = {setting: self._trial(setting) for setting in self._around(from_, {*coarse, *whole})}
            if not around or not outcomes[whole[best]].measured:
                return best, tuple(whole)
            yield list(around.values())
            whole |= around

    def _trial(self, setting: Setting) -> Trial:
        return Trial(setting.arm, setting.rate, self.seed, self.steps, self.detail, self.stream)

    def _around(self, best: Setting, known: Iterable[Setting]) -> list[Setting]:
        """The settings one octave from the best, where none between them and it is known."""
        rates = [setting.rate for setting in known if setting.arm == best.arm]
        lowest, highest = limits(self.rates)
        octaves = []
        if not any(best.rate / 2 / _SAME <= rate < best.rate for rate in rates):
            octaves.append(best.rate / 2)
        if not any(best.rate < rate <= best.rate * 2 * _SAME for rate in rates):
            octaves.append(best.rate * 2)
        return [Setting(best.arm, rate) for rate in octaves if lowest / _SAME <= rate <= highest * _SAME]


def together(parts: Mapping[K, Requests[T]]) -> Requests[dict[K, T]]:
    """Advance several parts side by side, so that their trials run at once; returns what each returned."""
    results: dict[K, T] = {}
    waiting = dict(parts)
    while waiting:
        wanted: list[Trial] = []
        for name, part in list(waiting.items()):
            try:
                wanted += next(part)
            except StopIteration as ended:
                results[name] = ended.value
                del waiting[name]
        if wanted:
            yield wanted
    return results
