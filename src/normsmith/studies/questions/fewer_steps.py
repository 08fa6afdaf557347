"""Does batch norm reach the target in fewer optimizer steps?"""

from __future__ import annotations

import math

from normsmith._text import number
from normsmith.studies.arms import network, normalized
from normsmith.studies.figures import arms_table, edge_notes, headline, rate_response, training_curves
from normsmith.studies.lab import Lab, Requests
from normsmith.studies.question import Findings, Question
from normsmith.studies.statistics import Hypothesis

MARGIN = -math.log(0.67)
"""Worth having: at most 0.67 of the steps."""


def ask(lab: Lab) -> Requests[Findings]:
    """Tune both arms by steps to the target on validation, compare them on test."""
    activations = lab.activations("relu", "tanh")
    arms = [(network(activation), normalized(activation)) for activation in activations]
    flat = [arm for pair in arms for arm in pair]
    yield lab.tuning(flat)
    target = yield from lab.target()
    tuned = yield from lab.tune(flat, lab.steps_to(target, "validation"), lab.shortfall)
    steps = lab.steps_to(target)
    pairs = [
        lab.compare(
            Hypothesis(
                name=activation or "own activation",
                text=f"{norm.name} reaches {number(target, 4)} in at most 0.67 of the steps of {plain.name}",
                treatment=norm.name,
                control=plain.name,
                unit="steps to target",
                scale="ratio",
                margin=MARGIN,
                better="lower",
            ),
            tuned[norm],
            tuned[plain],
            steps,
        )
        for activation, (plain, norm) in zip(activations, arms, strict=True)
    ]
    effects = lab.judge(pairs)
    best = list(tuned.values())
    return Findings(
        headline=headline("Batch norm reaches the target in fewer steps", effects),
        effects=effects,
        charts=(training_curves(lab, best), rate_response(lab, best)),
        tables=(arms_table(lab, best, {"steps to target": steps}),),
        notes=(f"Target: test metric {number(target, 4)}.", *edge_notes(best)),
    )


QUESTION = Question(
    name="fewer-steps",
    title="Does batch norm need fewer steps?",
    claim="A network with batch norm reaches the same accuracy in a fraction of the optimizer steps.",
    source="Ioffe & Szegedy 2015, section 4.2.2: Inception to 72.2 % in 13.3 instead of 31.0 million steps, "
    "2.1 at five times the learning rate (with dropout removed and other changes too)",
    method="Each arm at its own best learning rate, chosen on validation by the steps to the target; steps to "
    "the target on test, paired by seed. “Never” is known as more than the budget, and as no more than that.",
    ask=ask,
)
