"""Does batch norm belong before or after the activation?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from normsmith import surgery
from normsmith._text import number
from normsmith.studies import notation
from normsmith.studies.arms import Arm, network, normalized
from normsmith.studies.figures import (
    arms_table,
    edge_notes,
    headline,
    middle,
    probe,
    rate_response,
    training_curves,
)
from normsmith.studies.lab import Lab, Requests, Tuned
from normsmith.studies.question import Findings, Question
from normsmith.studies.results import Table
from normsmith.studies.statistics import Hypothesis
from normsmith.surgery.placement.search import hidden_activations
from normsmith.tasks import Task, build, example, forward_of

S_SHAPED = ("tanh", "sigmoid")
S_SHAPED_NAMES = {*S_SHAPED, "softsign", "hardtanh", "hardsigmoid"}
"""Modules and functions, in lower case."""
SHAPES = ("skewness before", "kurtosis before", "skewness after", "kurtosis after")


MARGIN = -math.log(0.89)
"""Worth having: at most 0.89 of the steps, which no two counts of evaluations make."""


def ask(lab: Lab) -> Requests[Findings]:
    """Tune both placements by steps to the target, compare steps and, beside them, the final metric."""
    activations = lab.activations("relu", "tanh", "sigmoid")
    arms = [
        (normalized(activation, where="before"), normalized(activation, where="after"), network(activation))
        for activation in activations
    ]
    flat = [arm for triple in arms for arm in triple]
    yield lab.tuning(flat)
    target = yield from lab.target()
    tuned = yield from lab.tune(flat, lab.steps_to(target, "validation"), lab.shortfall)
    steps = lab.steps_to(target)
    pairs = []
    for activation, (before, after, _) in zip(activations, arms, strict=True):
        claimed, other = (after, before) if _is_s_shaped(lab.task, activation) else (before, after)
        pairs.append(
            lab.compare(
                Hypothesis(
                    name=activation or "own activation",
                    text=f"{claimed.name} reaches {number(target, 4)} in at most 0.89 of the steps of {other.name}",
                    treatment=claimed.name,
                    control=other.name,
                    unit="steps to target",
                    scale="ratio",
                    margin=MARGIN,
                    better="lower",
                ),
                tuned[claimed],
                tuned[other],
                steps,
            )
        )
    effects = lab.judge(pairs)
    best = list(tuned.values())
    shapes = Table(
        title="Shape of the signal around the activations (median over seeds)",
        columns=("arm", *SHAPES),
        rows=tuple((t.arm.name, *(middle(lab, t, probe(name)) for name in SHAPES)) for t in best),
    )
    return Findings(
        headline=headline("Batch norm belongs before ReLU and after s-shaped activations", effects),
        effects=effects,
        charts=(training_curves(lab, best), rate_response(lab, best)),
        tables=(arms_table(lab, best, {"steps to target": steps}), _equivalence(lab, arms, tuned), shapes),
        notes=(f"Target: test metric {number(target, 4)}.", *edge_notes(best)),
    )


def _is_s_shaped(task: Task, activation: str | None) -> bool:
    """Whether an activation, or all hidden ones that the task's network has itself (None), level off on both sides."""
    if activation is not None:
        return activation in S_SHAPED
    graph = surgery.trace(build(task, 0), example(task), forward=forward_of(task))
    return all(event.name.lower() in S_SHAPED_NAMES for event in hidden_activations(graph))


def _equivalence(lab: Lab, arms: Sequence[tuple[Arm, ...]], tuned: Mapping[Arm, Tuned]) -> Table:
    """Whether the final metric after the activation is within a point of that before: beside the headline."""
    effects = lab.judge(
        [
            lab.pairs(
                Hypothesis(
                    name=after.name,
                    text=f"{after.name} ends within one point of {before.name}",
                    treatment=after.name,
                    control=before.name,
                    unit="points",
                    scale="difference",
                    margin=1.0,
                    better=lab.better,
                    kind="equivalence",
                ),
                lab.series(tuned[after], lab.points),
                lab.series(tuned[before], lab.points),
            )
            for before, after, _ in arms
        ]
    )
    return Table(
        title="Is the final test metric the same within one point? (secondary, corrected among themselves)",
        columns=(
            "comparison",
            "after minus before, points",
            notation.interval_name(effects),
            "verdict",
        ),
        rows=tuple(
            (
                e.hypothesis,
                notation.span(e, e.median),
                notation.ends(e),
                str(e.verdict),
            )
            for e in effects
        ),
    )


QUESTION = Question(
    name="placement",
    title="Does batch norm belong before or after the activation?",
    claim="Before ReLU and after s-shaped activations, by the advice of practitioners; the paper puts it before.",
    source="Ioffe & Szegedy 2015, section 3.2 (before); common practice since (after, for s-shaped activations)",
    method="The norm before or after every activation, each arm at its own best learning rate, chosen on "
    "validation by the steps to the target; steps to the target on test, paired by seed.",
    ask=ask,
)
