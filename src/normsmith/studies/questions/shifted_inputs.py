"""Do statistics that adapt to shifted inputs restore what the shift has cost?"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from normsmith._text import number
from normsmith.studies.figures import (
    arms_table,
    chosen_settings,
    edge_notes,
    headline,
    middle,
)
from normsmith.studies.inputs import standardised_outside
from normsmith.studies.lab import Lab
from normsmith.studies.other_statistics import final_by, points_by
from normsmith.studies.question import Findings, Question
from normsmith.studies.results import Strip, StripChart, Table
from normsmith.studies.shifts import SHIFTS, shift_test, shifted_metrics
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.tuning import Requests, Setting, Tuned

_TABLE = (
    "The inputs are a table, which is standardised before it is shifted, and not within the network. Its columns have "
    "no neighbours: blur mixes columns that have nothing to do with each other."
)


def ask(lab: Lab) -> Requests[Findings]:
    """Tune batch norm on the data as they are, then evaluate the same networks on shifted test inputs."""
    for how in SHIFTS:
        shift_test(lab.task, how)  # raises where these inputs cannot be shifted
    arm, outside = lab.normalized(None), standardised_outside(lab.task)
    arm = arm.on(arm.name, *outside)
    tuned = (yield from lab.tune([arm], lab.shortfall, detail="end"))[arm]

    def measured(best: Setting) -> Setting:
        return Setting(best.arm.but(best.arm.name, probes=(shifted_metrics,)), best.rate)

    shifted = replace(tuned.changed(arm, measured), ends=False)
    yield list(lab.trials(shifted).values())
    pairs = [
        _gain(lab, shifted, "contrast", 4.9),
        _no_gain(lab, shifted),
        *(_gain(lab, shifted, how, 0.95, beside=True) for how in ("brightness", "blur", "noise")),
    ]
    effects = lab.judge(pairs)
    return Findings(
        headline=headline(
            "Adapted statistics restore shifts of mean and variance, and nothing else", effects
        ),
        effects=effects,
        charts=(_gains(lab, shifted), chosen_settings([tuned])),
        tables=(_by_shift(lab, shifted), arms_table(lab, [tuned])),
        notes=(
            "The same trained network is evaluated by the moving averages of training (source) and by the statistics "
            "of the shifted test inputs themselves (adapted). No label is used to adapt.",
            *((_TABLE,) if outside else ()),
            *edge_notes([tuned]),
        ),
    )


def _gain(lab: Lab, tuned: Tuned, how: str, margin: float, *, beside: bool = False) -> Pairs:
    """The pairs of the hypothesis that adaptation gains more than so many points on inputs shifted in a way."""
    hypothesis = Hypothesis(
        name=f"final metric, {how}: adapted vs source",
        text=f"with shifted {how}, adapted statistics are more than {number(margin)} points better than those of "
        "training",
        treatment=f"adapted statistics, {how}",
        control=f"statistics of training, {how}",
        unit="points",
        scale="difference",
        margin=margin,
        better=lab.better,
        beside=beside,
    )
    return _pairs(lab, hypothesis, tuned, how)


def _no_gain(lab: Lab, tuned: Tuned) -> Pairs:
    """The pairs of the hypothesis that adaptation changes nothing where inputs are inverted."""
    hypothesis = Hypothesis(
        name="final metric, invert: adapted vs source",
        text="with inverted inputs, adapted statistics are within 1.9 points of those of training",
        treatment="adapted statistics, invert",
        control="statistics of training, invert",
        unit="points",
        scale="difference",
        margin=1.9,
        better=lab.better,
        kind="equivalence",
    )
    return _pairs(lab, hypothesis, tuned, "invert")


def _pairs(lab: Lab, hypothesis: Hypothesis, tuned: Tuned, how: str) -> Pairs:
    adapted, source = (lab.series(tuned, points_by(lab, f"{how}, {by}")) for by in ("adapted", "source"))
    return lab.pairs(hypothesis, adapted, source, lab.diverged(tuned, tuned))


def _gains(lab: Lab, tuned: Tuned) -> StripChart:
    """What each seed gains by adaptation on each kind of shift."""
    rows = []
    for how in SHIFTS:
        adapted, source = (lab.series(tuned, points_by(lab, f"{how}, {by}")) for by in ("adapted", "source"))
        rows.append(Strip(label=how, x=tuple(adapted[seed][0] - source[seed][0] for seed in adapted)))
    return StripChart(
        name="gains",
        title="What adapted statistics gain on shifted test inputs",
        x_title="points by adapted statistics, less those by the statistics of training",
        rows=tuple(rows),
        description="Gain of each seed by shift. Medians: "
        + "; ".join(f"{row.label} {number(median(row.x), 3)}" for row in rows if row.x)
        + ".",
    )


def _by_shift(lab: Lab, tuned: Tuned) -> Table:
    """The final test metric by shift and statistics."""
    return Table(
        title="Test metric on shifted inputs (median over seeds)",
        columns=("shift", "statistics of training", "adapted"),
        rows=(
            ("none", middle(lab, tuned, lab.final), "–"),
            *(
                (how, *(middle(lab, tuned, final_by(lab, f"{how}, {by}")) for by in ("source", "adapted")))
                for how in SHIFTS
            ),
        ),
    )


QUESTION = Question(
    name="shifted-inputs",
    title="Do statistics that adapt to shifted inputs restore what the shift has cost?",
    claim="Where inputs at test differ from those of training in mean and variance, batch norm by the statistics of "
    "the shifted inputs restores most of the accuracy; it does nothing about other shifts, such as inverted images.",
    source="Schneider et al. 2020: ImageNet-C, mean corruption error of ResNet-50 from 76.7 to 62.2 % by adapted "
    "statistics; Li et al. 2016 (AdaBN)",
    method="Each seed is trained on the data as they are, at its own best initial weights and learning rate; then the "
    "same network is evaluated on test inputs of a quarter of the contrast, one SD brighter, blurred, noisy and "
    "inverted, by the moving averages of training and by the statistics of the shifted inputs; paired by seed.",
    ask=ask,
    profiles=("full",),
)
