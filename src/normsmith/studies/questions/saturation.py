"""Does batch norm make saturating activations trainable?"""

from __future__ import annotations

from normsmith.studies.figures import (
    WELL_INITIALISED,
    arms_table,
    ceiling_notes,
    chosen_settings,
    edge_notes,
    headline,
    probe,
    rate_response,
    training_curves,
)
from normsmith.studies.lab import Lab, Profile
from normsmith.studies.question import Findings, Question
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.trial import Detail
from normsmith.studies.tuning import Requests, Tuned

FLAT = probe("flat", missing=1.0)
"""The share of flat units at the end of a trial."""

DETAIL: dict[Profile, Detail] = {"quick": "end", "full": "curve"}
"""Hypotheses are about the end of training; the full profile shows the way too."""


def ask(lab: Lab) -> Requests[Findings]:
    """Make every activation a sigmoid and compare final metric and the share of flat units."""
    plain, norm = lab.network("sigmoid"), lab.normalized("sigmoid")
    detail = DETAIL[lab.profile]
    tuned = yield from lab.tune([plain, norm], lab.shortfall, detail=detail)
    as_initialised = yield from lab.tune([plain], lab.shortfall, own_weights=True, detail=detail)
    pairs = [
        _better(lab, tuned[norm], tuned[plain]),
        _less_flat(lab, tuned[norm], tuned[plain]),
        _better(lab, tuned[norm], as_initialised[plain], beside=True),
    ]
    effects = lab.judge(pairs)
    best = [*tuned.values(), *as_initialised.values()]
    along_the_way = (training_curves(lab, best),) if detail == "curve" else ()
    return Findings(
        headline=headline("Batch norm makes sigmoid networks trainable", effects),
        effects=effects,
        charts=(*along_the_way, rate_response(lab, tuned.values()), chosen_settings(best)),
        tables=(arms_table(lab, best, {"share of flat units": FLAT}),),
        notes=(WELL_INITIALISED, *ceiling_notes(lab, pairs), *edge_notes(best)),
    )


def _better(lab: Lab, norm: Tuned, plain: Tuned, *, beside: bool = False) -> Pairs:
    """The pairs of the hypothesis that the norm ends far better than a control."""
    name = f"final metric, sigmoid: batch norm vs {'none as initialised' if beside else 'none'}"
    margin = 19.9  # between what 20 points are on small test sets: the next lower value falls short
    text = (
        f"{norm.arm.name} ends at least 20 points better than {plain.arm.name}: more than {margin}, so that no "
        "difference lies on the margin"
    )
    return lab.ends_better(name, text, norm, plain, margin, beside=beside)


def _less_flat(lab: Lab, norm: Tuned, plain: Tuned) -> Pairs:
    """The pairs of the hypothesis that fewer units are flat, which means something only where both arms learn."""
    hypothesis = Hypothesis(
        name="share of flat units, sigmoid: batch norm vs none",
        text=f"in {norm.arm.name} the share of sigmoids whose slope is below 0.05 is lower by at least 0.01",
        treatment=norm.arm.name,
        control=plain.arm.name,
        unit="share of units",
        scale="difference",
        margin=0.01,
        better="lower",
    )
    pairs = lab.compare(hypothesis, norm, plain, FLAT)
    return lab.where_both_learn(pairs, norm, plain, "units of a network that does not learn say nothing")


QUESTION = Question(
    name="saturation",
    title="Does batch norm make saturating activations trainable?",
    claim="Batch norm keeps activations out of the flat parts of a sigmoid, so that deep sigmoid networks train.",
    source="Ioffe & Szegedy 2015, sections 3.2 and 4.2.2: Inception with sigmoids reaches 69.8 % with batch norm and "
    "stays at chance without",
    method="Every activation becomes a sigmoid; each arm and seed at its own best initial weights and learning rate, "
    "chosen on validation; final test metric, paired by seed. A sigmoid counts as flat "
    "where its slope is below 0.05, a fifth of the greatest; the share is taken at the end of training, and is "
    "all of them for a trial that diverged before it was first measured.",
    ask=ask,
)
