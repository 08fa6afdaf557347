"""Does a batch norm on the inputs replace the preparation of data?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from normsmith._text import number
from normsmith.studies.arms import Arm, edit
from normsmith.studies.figures import (
    arms_table,
    ceiling_notes,
    chosen_settings,
    edge_notes,
    headline,
    rate_response,
)
from normsmith.studies.inputs import distort, norm_first, prepare, standardised_outside
from normsmith.studies.lab import Lab
from normsmith.studies.question import Findings, Question
from normsmith.studies.results import Strip, StripChart
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.tuning import Requests, Tuned
from normsmith.tasks.metrics import name_of

RAW = {"scales": "raw scales", "tails": "heavy tails", "outliers": "outliers"}
ASKED = {
    "quick": (
        *((how, "scales") for how in ("raw", "standard", "first")),
        ("quantile", "tails"),
        ("first", "tails"),
    ),
    "full": tuple((how, raw) for raw in RAW for how in ("raw", "standard", "quantile", "first")),
}
"""Which preparation is tried on which data; the quick profile has those that a hypothesis is about."""

PREPARED = {
    "raw": "as they are",
    "standard": "standard scaler",
    "quantile": "quantile transform",
    "first": "batch norm first",
}
"""The preparations, as arms are called."""

WAY = 0.97
"""A batch norm replaces a scaler if it goes so much of the way from the inputs as they are to the scaled ones."""


def ask(lab: Lab) -> Requests[Findings]:
    """Train on raw, prepared and normalised inputs, and compare the final metric."""
    arms = {(how, raw): _arm(lab, how, raw) for how, raw in ASKED[lab.profile]}
    flat = yield from lab.tune(arms.values(), lab.shortfall, detail="end")
    tuned = {key: flat[arm] for key, arm in arms.items()}
    pairs = _hypotheses(lab, tuned)
    effects = lab.judge(pairs)
    best = list(tuned.values())
    return Findings(
        headline=headline(
            "A batch norm on the inputs replaces a scaler, and not a quantile transform", effects
        ),
        effects=effects,
        charts=(_by_preparation(lab, tuned), rate_response(lab, best), chosen_settings(best)),
        tables=(arms_table(lab, best),),
        notes=(
            "The same changes are made to the inputs of training, validation and test; what prepares them is fitted on "
            "those of training. There are no other norms in the network.",
            *ceiling_notes(lab, pairs),
            *edge_notes(best),
        ),
    )


def _arm(lab: Lab, how: str, raw: str) -> Arm:
    """The network without norms on raw data of a kind, as they are or prepared, or with a batch norm first."""
    arm = lab.network(None)
    data = *standardised_outside(lab.task), edit(distort, how=raw)
    name = f"{RAW[raw]}, {PREPARED[how]}"
    if how == "first":
        return arm.but("", edit(norm_first)).on(name, *data)
    return arm.on(name, *data, *(() if how == "raw" else (edit(prepare, how=how),)))


def _by_preparation(lab: Lab, tuned: Mapping[tuple[str, str], Tuned]) -> StripChart:
    """The median final test metric of each preparation, a row for each kind of raw data."""
    medians: dict[str, dict[str, float]] = {}
    for (how, raw), arm in tuned.items():
        if values := [value for value, _ in lab.series(arm, lab.final).values() if math.isfinite(value)]:
            medians.setdefault(RAW[raw], {})[PREPARED[how]] = median(values)
    metric = name_of(lab.task.metric)
    said = "; ".join(
        f"{raw}: " + ", ".join(f"{how} {number(value)}" for how, value in row.items())
        for raw, row in medians.items()
    )
    return StripChart(
        name="preparations",
        title="Final test metric by preparation",
        x_title=f"final test {metric}, median over seeds",
        rows=tuple(Strip(label=raw, x=tuple(row.values()), kinds=tuple(row)) for raw, row in medians.items()),
        description=f"Each preparation's median over seeds. {said}.",
    )


def _hypotheses(lab: Lab, tuned: Mapping[tuple[str, str], Tuned]) -> list[Pairs]:
    """What a batch norm gains on raw scales, whether it is as good as a scaler there, and what it leaves of tails."""
    raw, scaled, first = (tuned[how, "scales"] for how in ("raw", "standard", "first"))
    helps = "final metric, raw scales: batch norm first vs as they are"
    pairs = [
        lab.ends_better(
            helps, "a batch norm first is more than 2 points better than inputs as they are", first, raw, 2.0
        ),
        _as_good(lab, helps, raw, scaled, first),
    ]
    for kind in ("tails", "outliers"):
        if ("quantile", kind) in tuned:
            text = (
                f"with {RAW[kind]} a quantile transform is more than 1 point better than a batch norm first"
            )
            name = f"final metric, {RAW[kind]}: quantile transform vs batch norm first"
            pairs.append(lab.ends_better(name, text, tuned["quantile", kind], tuned["first", kind], 1.0))
    return pairs


def _as_good(lab: Lab, after: str, raw: Tuned, scaled: Tuned, first: Tuned) -> Pairs:
    """The pairs of the hypothesis that a batch norm goes nearly all of the way that a scaler goes."""
    low, high = lab.series(raw, lab.points), lab.series(scaled, lab.points)
    way = {
        seed: (low[seed][0] + WAY * (value - low[seed][0]), 0)
        for seed, (value, _) in high.items()
        if seed in low
    }
    hypothesis = Hypothesis(
        name="raw scales: batch norm first goes the way of a scaler",
        text="a batch norm first goes more than 97 % of the way from inputs as they are to those of a scaler",
        treatment=first.arm.name,
        control=f"97 % of the way from {raw.arm.name} to {scaled.arm.name}",
        unit="points",
        scale="difference",
        margin=0.01,
        better=lab.better,
        after=after,
    )
    return lab.pairs(hypothesis, lab.series(first, lab.points), way, lab.diverged(first, scaled))


QUESTION = Question(
    name="data-preparation",
    title="Does a batch norm on the inputs replace the preparation of data?",
    claim="With a batch norm as first layer, inputs need no scaler; where they are far from Gaussian, a quantile "
    "transform still does better.",
    source="LeCun et al. 1998, section 4.3 (inputs of equal variance train faster); common practice since (batch norm "
    "as first layer)",
    method="Every feature gets a unit of its own between 10⁻³ and 10³, or heavy tails, or one value in a hundred is an "
    "outlier. Tables are standardised before their units are changed, and the network standardises nothing itself. "
    "On these inputs a network without norms is trained as they are, after a standard scaler or a quantile transform, "
    "and with a batch norm as first layer; each arm and seed at its own best initial weights and learning rate; final "
    "test metric, paired by seed.",
    ask=ask,
    profiles=("full",),
)
