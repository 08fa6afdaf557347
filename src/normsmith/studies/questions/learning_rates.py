"""Does batch norm allow larger learning rates?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from normsmith._text import exact, number
from normsmith.studies.arms import Arm
from normsmith.studies.figures import (
    chosen_settings,
    counted,
    edge_notes,
    headline,
    response,
    target_note,
    unreached,
)
from normsmith.studies.lab import LESS, MORE, Lab, Sample
from normsmith.studies.question import Findings, Question
from normsmith.studies.results import Chart, Table
from normsmith.studies.statistics import Hypothesis
from normsmith.studies.trial import Trial
from normsmith.studies.tuning import Requests, Setting, Tuned

BELOW, ABOVE = {"quick": 2, "full": 4}, {"quick": 3, "full": 5}
"""Octaves by which the sweep goes beyond the task's own grid of learning rates, down and up."""

COUNTED = ": more than 1.5, since octaves are counted whole"
"""Why the margin is not the 2 octaves of the claim: no count lies on it."""


def ask(lab: Lab) -> Requests[Findings]:
    """Sweep the learning rate in octaves and read off the largest and the number that reach the target."""
    plain, norm = lab.network(None), lab.normalized(None)
    target = yield from lab.target([plain])
    tuned = yield from lab.tune([plain, norm], lab.shortfall)
    lab.check_target(target, tuned[plain])
    sweep = _Sweep(lab, _octaves(lab), target, tuned)
    yield sweep.trials()
    reach = number(target, 4)
    claim = partial(
        Hypothesis,
        treatment=norm.name,
        control=plain.name,
        unit="octaves",
        scale="difference",
        margin=1.5,
        better="higher",
    )
    largest = claim(
        name=f"largest rate that reaches {reach}: batch norm vs none",
        text=f"the largest learning rate that reaches {reach} is at least 2 octaves (4×) larger{COUNTED}",
    )
    width = claim(
        name=f"range of rates that reach {reach}: batch norm vs none",
        text=f"at least 2 octaves more of learning rates reach {reach}{COUNTED}",
    )
    effects = lab.judge(
        [
            lab.pairs(largest, sweep.largest(norm), sweep.largest(plain)),
            lab.pairs(width, sweep.width(norm), sweep.width(plain)),
        ]
    )
    return Findings(
        headline=headline("Batch norm allows larger learning rates", effects),
        effects=effects,
        charts=(_by_rate(sweep), chosen_settings(tuned.values())),
        tables=(_by_seed(sweep, (plain, norm)),),
        notes=(
            target_note(lab, target, at_end=True),
            *unreached(lab, target, tuned.values()),
            f"Rates from {exact(sweep.rates[0])} to {exact(sweep.rates[-1])} in octaves, at the initial weights that "
            "are best for the seed at its best rate.",
            *edge_notes(tuned.values()),
        ),
    )


def _octaves(lab: Lab) -> tuple[float, ...]:
    """The learning rates of the sweep: the task's own grid and what lies beyond it, each twice the one before."""
    lowest = min(lab.task.learning_rates) / 2 ** BELOW[lab.profile]
    highest = max(lab.task.learning_rates) * 2 ** ABOVE[lab.profile]
    return tuple(lowest * 2**i for i in range(round(math.log2(highest / lowest)) + 1))


@dataclass(frozen=True)
class _Sweep:
    """Which rates of a sweep reach the target, each seed at the initial weights that were tuned."""

    lab: Lab
    rates: tuple[float, ...]
    target: float
    tuned: Mapping[Arm, Tuned]

    def at(self, arm: Arm, rate: float) -> Tuned:
        """The arm at this rate."""
        return self.tuned[arm].changed(arm, lambda best: Setting(best.arm, rate))

    def trials(self) -> list[Trial]:
        """Every arm at every rate."""
        return [
            trial
            for arm in self.tuned
            for rate in self.rates
            for trial in self.lab.trials(self.at(arm, rate)).values()
        ]

    def reaching(self, arm: Arm) -> dict[int, list[float]]:
        """The rates at which each seed reaches the target; of seeds all of whose trials ran."""
        there = self.lab.ends_at(self.target)
        series = {rate: self.lab.series(self.at(arm, rate), there) for rate in self.rates}
        complete = [seed for seed in self.lab.seeds if all(seed in samples for samples in series.values())]
        return {seed: [rate for rate in self.rates if series[rate][seed][0]] for seed in complete}

    def largest(self, arm: Arm) -> dict[int, Sample]:
        """Octaves from below the sweep to the largest rate; a bound where that is an end of the sweep, or none."""

        def octave(reached: list[float]) -> Sample:
            if not reached:
                return 0.0, LESS
            return math.log2(max(reached) / self.rates[0]) + 1, MORE * (max(reached) == self.rates[-1])

        return {seed: octave(reached) for seed, reached in self.reaching(arm).items()}

    def width(self, arm: Arm) -> dict[int, Sample]:
        """The number of rates of the sweep that reach the target; at least so many where the largest does."""

        def octaves(reached: list[float]) -> Sample:
            return float(len(reached)), MORE * (self.rates[-1] in reached)

        return {seed: octaves(reached) for seed, reached in self.reaching(arm).items()}


def _by_rate(sweep: _Sweep) -> Chart:
    """The final test metric at every rate of the sweep."""
    arms = {arm.name: {rate: sweep.at(arm, rate) for rate in sweep.rates} for arm in sweep.tuned}
    return response(sweep.lab, arms, name="sweep", title="Sweep of the learning rate", to="learning rate")


def _by_seed(sweep: _Sweep, arms: tuple[Arm, ...]) -> Table:
    """For each arm, the largest rate that reaches the target, and how many rates do: the seeds in numbers."""
    rows = []
    for arm in arms:
        reaching = sweep.reaching(arm).values()
        none = sum(not rates for rates in reaching)
        largest = counted(max(rates) for rates in reaching if rates)
        rows.append(
            (
                arm.name,
                f"{largest}, none: {none}" if none else largest,
                counted(float(len(rates)) for rates in reaching),
            )
        )
    return Table(
        title="Learning rates that reach the target: median (quartiles); how many seeds have which",
        columns=("arm", "largest rate", f"how many of {len(sweep.rates)} rates"),
        rows=tuple(rows),
    )


QUESTION = Question(
    name="learning-rates",
    title="Does batch norm allow larger learning rates?",
    claim="Batch norm keeps training stable at learning rates that are much larger.",
    source="Ioffe & Szegedy 2015, section 3.3; Bjorck et al. 2018",
    method="The learning rate is swept in octaves (factors of 2), at the initial weights that are best for the seed; "
    "per seed, the largest rate at which the target is reached at the end of the budget, and the number of rates at "
    "which it is.",
    ask=ask,
)
