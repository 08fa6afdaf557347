"""Does batch norm allow larger learning rates?"""

from __future__ import annotations

import math
from functools import partial

from normsmith._text import exact, number
from normsmith.studies.arms import Arm, network, normalized
from normsmith.studies.figures import headline, rate_response
from normsmith.studies.lab import Lab, Requests, Sample, Tuned
from normsmith.studies.question import Findings, Question
from normsmith.studies.results import Table
from normsmith.studies.statistics import Hypothesis, judge

BELOW, ABOVE = {"quick": 2, "full": 4}, 5
"""Octaves by which the sweep goes beyond the task's own grid of learning rates, down and up."""


def ask(lab: Lab) -> Requests[Findings]:
    """Sweep the learning rate in octaves and read off the largest and the number that reach the target."""
    plain, norm = network(None), normalized(None)
    lowest, highest = (
        min(lab.task.learning_rates) / 2 ** BELOW[lab.profile],
        max(lab.task.learning_rates) * 2**ABOVE,
    )
    octaves = round(math.log2(highest / lowest))
    rates = tuple(lowest * 2**i for i in range(octaves + 1))
    yield lab.grid([plain, norm], rates) + lab.tuning([])
    target = yield from lab.target()

    def reaching(arm: Arm) -> dict[int, list[float]]:
        """The rates at which each seed reached the target; of seeds all of whose trials ran."""
        reached = [lab.series(Tuned(arm, rate, rates), lab.steps_to(target)) for rate in rates]
        complete = [seed for seed in lab.seeds if all(seed in found for found in reached)]
        return {
            seed: [rate for rate, found in zip(rates, reached, strict=True) if not found[seed][1]]
            for seed in complete
        }

    def largest(arm: Arm) -> dict[int, Sample]:
        """Octaves from below the sweep to the largest rate; censored where the sweep ends too early."""
        return {
            seed: (
                math.log2(max(found) / lowest) + 1 if found else 0.0,
                bool(found) and max(found) == rates[-1],
            )
            for seed, found in reaching(arm).items()
        }

    def width(arm: Arm) -> dict[int, Sample]:
        """The number of octaves that reach the target."""
        return {seed: (float(len(found)), False) for seed, found in reaching(arm).items()}

    claim = partial(
        Hypothesis,
        treatment=norm.name,
        control=plain.name,
        unit="octaves",
        scale="difference",
        margin=2.0,
        better="higher",
    )
    pairs = [
        lab.pairs(
            claim(
                name="largest rate",
                text=f"the largest learning rate that reaches {number(target, 4)} is at least 2 octaves (4×) larger",
            ),
            largest(norm),
            largest(plain),
        ),
        lab.pairs(
            claim(
                name="width",
                text=f"at least 2 octaves more of learning rates reach {number(target, 4)}",
            ),
            width(norm),
            width(plain),
        ),
    ]
    effects = judge(pairs)
    swept = [Tuned(arm, rates[0], rates) for arm in (plain, norm)]
    rows = tuple(
        (
            arm.name,
            " · ".join(exact(max(found)) if found else "none" for found in reaching(arm).values()),
            " · ".join(str(len(found)) for found in reaching(arm).values()),
        )
        for arm in (plain, norm)
    )
    return Findings(
        headline=headline("Batch norm allows larger learning rates", effects),
        effects=effects,
        charts=(rate_response(lab, swept, marked=False),),
        tables=(
            Table(
                title="Learning rates that reach the target, by seed",
                columns=("arm", "largest", f"how many of {len(rates)}"),
                rows=rows,
            ),
        ),
        notes=(
            f"Target: test metric {number(target, 4)}. Rates from {exact(rates[0])} to {exact(rates[-1])} "
            "in octaves.",
        ),
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
