"""Does dropout before a batch norm clash with it?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from normsmith.studies.arms import Arm, edit, insert_dropout
from normsmith.studies.figures import (
    arms_table,
    ceiling_notes,
    chosen_settings,
    edge_notes,
    headline,
    probe,
    rate_response,
    response,
)
from normsmith.studies.lab import Lab, Measure, Sample
from normsmith.studies.other_statistics import final_by, points_by, recalibrated_metric
from normsmith.studies.probes import largest_variance_shift
from normsmith.studies.question import Findings, Question
from normsmith.studies.results import Chart
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.trial import Outcome
from normsmith.studies.tuning import Requests, Setting, Tuned

HALF = 0.5
"""The share of units that is dropped where hypotheses are judged."""
ASKED = {
    "quick": (("between", HALF), ("last", HALF)),
    "full": tuple((where, share) for where in ("between", "last") for share in (0.1, 0.3, HALF)),
}
"""Where dropout stands, and which share it drops."""
SHIFT = probe("variance shift")


def ask(lab: Lab) -> Requests[Findings]:
    """Train batch norm with dropout between the layers, after the last activation, and without; measure the norms."""
    norm, plain = lab.normalized(None), lab.network(None)
    arms = {key: _dropping(norm, *key) for key in ASKED[lab.profile]}
    others = [plain, _dropping(plain, "between", HALF)] if lab.profile == "full" else []
    flat = yield from lab.tune([norm, *arms.values(), *others], lab.shortfall, detail="end")
    measured = {key: _measured(flat[arm], arm) for key, arm in arms.items()}
    without = _measured(flat[norm], norm)
    yield [trial for each in (without, *measured.values()) for trial in lab.trials(each).values()]
    pairs = _hypotheses(lab, measured, without)
    if others:
        pairs.append(_interaction(lab, measured["between", HALF], without, *(flat[arm] for arm in others)))
    effects = lab.judge(pairs)
    best = [without, *measured.values(), *(flat[arm] for arm in others)]
    shown = {"recalibrated": _recalibrated(lab), "variance shift": SHIFT}
    return Findings(
        headline=headline(
            "Dropout before a batch norm shifts its variance, and recalibration repairs it", effects
        ),
        effects=effects,
        charts=(
            _by_share(lab, without, measured, [flat[arm] for arm in others]),
            rate_response(lab, flat.values()),
            chosen_settings(flat.values()),
        ),
        tables=(arms_table(lab, best, shown),),
        notes=(
            "“Between” is dropout after every hidden activation but the last, so that a batch norm comes after it; "
            "“last” is dropout after the last one, with no norm after it. The variance shift is the largest of the "
            "norms: by what factor the variance that it keeps is off that of its input in evaluation; 1 is right.",
            *ceiling_notes(lab, pairs),
            *edge_notes(flat.values()),
        ),
    )


def _dropping(arm: Arm, where: str, share: float) -> Arm:
    return arm.but(f"{arm.name}, dropout {share:g} {where}", edit(insert_dropout, share=share, where=where))


def _measured(tuned: Tuned, arm: Arm) -> Tuned:
    """The tuned arm with the variance shift of its norms, and the metric by recalibrated statistics."""
    probes = (largest_variance_shift, recalibrated_metric)
    changed = tuned.changed(arm, lambda best: Setting(best.arm.but(arm.name, probes=probes), best.rate))
    return replace(changed, ends=False)


def _recalibrated(lab: Lab) -> Measure:
    """The test metric by recalibrated statistics; NaN for a network that has none."""
    by = final_by(lab, "recalibrated")

    def measure(outcome: Outcome) -> Sample:
        there = "recalibrated" in outcome.probes or outcome.status != "finished"
        return by(outcome) if there else (math.nan, 0)

    return measure


def _by_share(
    lab: Lab, without: Tuned, measured: Mapping[tuple[str, float], Tuned], plain: Sequence[Tuned]
) -> Chart:
    """The final test metric against the share that is dropped, for each place, and without norms where that ran."""
    lines: dict[str, dict[float, Tuned]] = {
        f"batch norm, dropout {place}": {
            0.0: without,
            **{share: arm for (where, share), arm in measured.items() if where == place},
        }
        for place in ("between", "last")
    }
    recalibrated = "batch norm, dropout between, recalibrated"
    lines[recalibrated] = lines["batch norm, dropout between"]
    if plain:
        lines["no norm, dropout between"] = dict(zip((0.0, HALF), plain, strict=True))
    return response(
        lab,
        lines,
        name="shares",
        title="Final test metric by dropout rate",
        to="share of units that is dropped",
        measures={recalibrated: final_by(lab, "recalibrated")},
        log_x=False,
    )


def _hypotheses(lab: Lab, measured: Mapping[tuple[str, float], Tuned], without: Tuned) -> list[Pairs]:
    """The variance shift by dropout between layers, what recalibration gains there, and the shift by the last one."""
    between, last = measured["between", HALF], measured["last", HALF]
    gain = Hypothesis(
        name="final metric, dropout between: recalibrated vs moving averages",
        text="with dropout between the layers, recalibrated statistics are at least half a point better than moving "
        "averages",
        treatment="recalibrated statistics, dropout between",
        control="moving averages, dropout between",
        unit="points",
        scale="difference",
        margin=0.5,
        better=lab.better,
    )
    series = lab.series(between, points_by(lab, "recalibrated")), lab.series(between, lab.points)
    return [
        _shifts(lab, "between", between, without),
        lab.pairs(gain, *series, lab.diverged(between, between)),
        _shifts(lab, "last", last, without, beside=True),
    ]


def _shifts(lab: Lab, where: str, dropping: Tuned, without: Tuned, *, beside: bool = False) -> Pairs:
    """The pairs of the hypothesis that dropout makes a norm's variance wrong by a fifth more than without."""
    hypothesis = Hypothesis(
        name=f"variance shift, dropout {where} vs none",
        text=f"with dropout {where} the variance shift is more than 1.2 times that without",
        treatment=dropping.arm.name,
        control=without.arm.name,
        unit="variance shift",
        scale="ratio",
        margin=math.log(1.2),
        better="higher",
        beside=beside,
    )
    return lab.compare(hypothesis, dropping, without, SHIFT)


def _interaction(lab: Lab, both: Tuned, norm: Tuned, plain: Tuned, dropping: Tuned) -> Pairs:
    """The pairs of the hypothesis that dropout costs more, or gains less, with batch norm than without."""
    points = [lab.series(arm, lab.points) for arm in (both, norm, dropping, plain)]
    seeds = [seed for seed in lab.seeds if all(seed in series for series in points)]
    with_norm, without = (
        {seed: (a[seed][0] - b[seed][0], 0) for seed in seeds}
        for a, b in ((points[0], points[1]), (points[2], points[3]))
    )
    hypothesis = Hypothesis(
        name="what dropout gains: with batch norm vs without",
        text="dropout between the layers gains more than 1 point less with batch norm than without",
        treatment="the gain by dropout with batch norm",
        control="the gain by dropout without",
        unit="points",
        scale="difference",
        margin=1.0,
        better="lower" if lab.task.higher_is_better else "higher",
    )
    return lab.pairs(hypothesis, with_norm, without)


QUESTION = Question(
    name="dropout",
    title="Does dropout before a batch norm clash with it?",
    claim="Dropout changes the variance of what a later batch norm sees in training but not at inference, so that its "
    "moving averages are wrong; after the last norm it is harmless, and recalibration repairs the rest.",
    source="Li et al. 2019: DenseNet on CIFAR-100, 77.42 % without dropout, 68.55 % with dropout 0.5 before batch "
    "norm; Ioffe & Szegedy 2015, section 4.2.1 (dropout can be removed)",
    method="Batch norm with dropout of a half between the layers, after the last activation, and none; each arm and "
    "seed at its own best initial weights and learning rate. In the trained networks: the largest variance shift of a "
    "norm, and the test metric by moving averages and by statistics recalibrated without dropout; paired by seed.",
    ask=ask,
    profiles=("full",),
)
