"""Does batch norm allow larger learning rates?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from normsmith._text import exact, number
from normsmith.studies.arms import Arm, network, normalized
from normsmith.studies.figures import headline, rate_response
from normsmith.studies.lab import Lab, Requests, Sample, Tuned
from normsmith.studies.question import Findings, Question
from normsmith.studies.results import Table
from normsmith.studies.statistics import Hypothesis

BELOW, ABOVE = {"quick": 2, "full": 4}, 5
"""Octaves by which the sweep goes beyond the task's own grid of learning rates, down and up."""


def ask(lab: Lab) -> Requests[Findings]:
    """Sweep the learning rate in octaves and read off the largest and the number that reach the target."""
    plain, norm = network(None), normalized(None)
    rates = _octaves(lab)
    yield lab.grid([plain, norm], rates) + lab.tuning([])
    target = yield from lab.target()
    sweep = _Sweep(lab, rates, target)
    claim = partial(
        Hypothesis,
        treatment=norm.name,
        control=plain.name,
        unit="octaves",
        scale="difference",
        margin=1.5,  # octaves are counted: between 2 and the count before
        better="higher",
    )
    reach = number(target, 4)
    largest = claim(
        name="largest rate",
        text=f"the largest learning rate that reaches {reach} is at least 2 octaves (4×) larger",
    )
    width = claim(name="width", text=f"at least 2 octaves more of learning rates reach {reach}")
    effects = lab.judge(
        [
            lab.pairs(largest, sweep.largest(norm), sweep.largest(plain)),
            lab.pairs(width, sweep.width(norm), sweep.width(plain)),
        ]
    )
    swept = [Tuned(arm, rates[0], rates) for arm in (plain, norm)]
    return Findings(
        headline=headline("Batch norm allows larger learning rates", effects),
        effects=effects,
        charts=(rate_response(lab, swept, marked=False),),
        tables=(_by_seed(sweep, (plain, norm)),),
        notes=(
            f"Target: test metric {reach}. Rates from {exact(rates[0])} to {exact(rates[-1])} in octaves.",
        ),
    )


def _octaves(lab: Lab) -> tuple[float, ...]:
    """The learning rates of the sweep: the task's own grid and what lies beyond it, each twice the one before."""
    lowest = min(lab.task.learning_rates) / 2 ** BELOW[lab.profile]
    highest = max(lab.task.learning_rates) * 2**ABOVE
    return tuple(lowest * 2**i for i in range(round(math.log2(highest / lowest)) + 1))


@dataclass(frozen=True)
class _Sweep:
    """Which rates of a sweep reach the target."""

    lab: Lab
    rates: tuple[float, ...]
    target: float

    def reaching(self, arm: Arm) -> dict[int, list[float]]:
        """The rates at which each seed reaches the target; of seeds all of whose trials ran."""
        steps = self.lab.steps_to(self.target)
        series = {rate: self.lab.series(Tuned(arm, rate, self.rates), steps) for rate in self.rates}
        complete = [seed for seed in self.lab.seeds if all(seed in samples for samples in series.values())]
        return {seed: [rate for rate in self.rates if not series[rate][seed][1]] for seed in complete}

    def largest(self, arm: Arm) -> dict[int, Sample]:
        """Octaves from below the sweep to the largest rate; censored where the sweep ends too early."""

        def octave(reached: list[float]) -> Sample:
            if not reached:
                return 0.0, False
            return math.log2(max(reached) / self.rates[0]) + 1, max(reached) == self.rates[-1]

        return {seed: octave(reached) for seed, reached in self.reaching(arm).items()}

    def width(self, arm: Arm) -> dict[int, Sample]:
        """The number of octaves that reach the target."""
        return {seed: (float(len(reached)), False) for seed, reached in self.reaching(arm).items()}


def _by_seed(sweep: _Sweep, arms: tuple[Arm, ...]) -> Table:
    """For each arm and seed, the largest rate that reaches the target, and how many rates do."""
    rows = []
    for arm in arms:
        reaching = sweep.reaching(arm).values()
        largest = [exact(max(rates)) if rates else "none" for rates in reaching]
        rows.append((arm.name, " · ".join(largest), " · ".join(str(len(rates)) for rates in reaching)))
    return Table(
        title="Learning rates that reach the target, by seed",
        columns=("arm", "largest", f"how many of {len(sweep.rates)}"),
        rows=tuple(rows),
    )


QUESTION = Question(
    name="learning-rates",
    title="Does batch norm allow larger learning rates?",
    claim="Batch norm keeps training stable at learning rates that are much larger.",
    source="Ioffe & Szegedy 2015, section 3.3; Bjorck et al. 2018",
    method="The learning rate is swept in octaves; per seed, the largest rate at which the target is reached "
    "within the budget, and the number of rates at which it is.",
    ask=ask,
)
