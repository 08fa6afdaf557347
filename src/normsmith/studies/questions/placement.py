"""Does batch norm belong before or after the activation?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from normsmith import surgery
from normsmith.studies import notation
from normsmith.studies.arms import Arm
from normsmith.studies.figures import (
    arms_table,
    chosen_settings,
    edge_notes,
    headline,
    middle,
    probe,
    rate_response,
    target_note,
    training_curves,
    unreached,
)
from normsmith.studies.lab import Lab
from normsmith.studies.question import Findings, Question
from normsmith.studies.results import Table
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.tuning import Requests, Tuned
from normsmith.surgery.placement.search import hidden_activations
from normsmith.tasks import Task, build, example, forward_of

S_SHAPED = ("tanh", "sigmoid")
S_SHAPED_NAMES = {*S_SHAPED, "softsign", "hardtanh", "hardsigmoid"}
"""Modules and functions, in lower case."""
SHAPES = ("skewness before", "kurtosis before", "skewness after", "kurtosis after")

ACTIVATIONS = {"quick": ("relu", "tanh"), "full": ("relu", "tanh", "sigmoid")}
"""As many as a profile's seeds can judge."""

SHARE = 0.89
"""Worth having: at most so much of the steps, which no two counts of evaluations make."""


def ask(lab: Lab) -> Requests[Findings]:
    """Tune both placements by steps to the target, compare steps and, beside them, the final metric."""
    activations = lab.activations(*ACTIVATIONS[lab.profile])
    arms = {
        name: (lab.normalized(name, where="before"), lab.normalized(name, where="after"))
        for name in activations
    }
    target = yield from lab.target([lab.network(name) for name in activations])
    flat = [arm for pair in arms.values() for arm in pair]
    tuned = yield from lab.tune(flat, lab.steps_to(target, "validation"), lab.shortfall)
    effects = lab.judge(
        [_fewer(lab, name, target, tuned[before], tuned[after]) for name, (before, after) in arms.items()]
    )
    best = list(tuned.values())
    shapes = Table(
        title="Shape of the signal around the activations (median over seeds)",
        columns=("arm", *SHAPES),
        rows=tuple((t.arm.name, *(middle(lab, t, probe(name)) for name in SHAPES)) for t in best),
    )
    return Findings(
        headline=headline("Batch norm belongs before ReLU and after s-shaped activations", effects),
        effects=effects,
        charts=(training_curves(lab, best), rate_response(lab, best), chosen_settings(best)),
        tables=(
            arms_table(lab, best, {"steps to target": lab.steps_to(target)}),
            _equivalence(lab, arms.values(), tuned),
            shapes,
        ),
        notes=(target_note(lab, target), *unreached(lab, target, best), *edge_notes(best)),
    )


def _fewer(lab: Lab, activation: str | None, target: float, before: Tuned, after: Tuned) -> Pairs:
    """The pairs of one hypothesis: the side that is advised needs fewer steps than the other."""
    claimed, other, sides = before, after, "before vs after"
    if _is_s_shaped(lab.task, activation):
        claimed, other, sides = after, before, "after vs before"
    return lab.fewer_steps(
        f"{activation or 'own activation'}: batch norm {sides}", claimed, other, target, SHARE
    )


def _is_s_shaped(task: Task, activation: str | None) -> bool:
    """Whether an activation, or all hidden ones that the task's network has itself (None), level off on both sides."""
    if activation is not None:
        return activation in S_SHAPED
    graph = surgery.trace(build(task, 0), example(task), forward=forward_of(task))
    return all(event.name.lower() in S_SHAPED_NAMES for event in hidden_activations(graph))


def _equivalence(lab: Lab, arms: Iterable[tuple[Arm, Arm]], tuned: Mapping[Arm, Tuned]) -> Table:
    """Whether the final metric after the activation is within a point of that before: beside the headline."""
    effects = lab.judge(
        [
            lab.pairs(
                Hypothesis(
                    name=f"final metric: {after.name} vs before",
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
            for before, after in arms
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
    method="The norm before or after every activation, each arm and seed at its own best initial weights and learning "
    "rate, chosen on validation by the steps to the target; steps after which the target holds on test, by seed.",
    ask=ask,
)
