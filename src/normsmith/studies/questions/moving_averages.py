"""Do the moving averages that inference uses match the statistics that the network was trained with?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from normsmith._text import exact
from normsmith.studies.arms import Arm, edit, set_norms
from normsmith.studies.data_edits import batch_size
from normsmith.studies.figures import arms_table, chosen_settings, edge_notes, headline, probe, response
from normsmith.studies.lab import Lab
from normsmith.studies.other_statistics import final_by, largest_mismatch, points_by, recalibrated_metric
from normsmith.studies.question import Findings, Question
from normsmith.studies.results import Chart
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.tuning import Requests, Setting, Tuned
from normsmith.tasks.datasets import length

LARGE = 256
"""Samples in a batch, or half of the training data where that is fewer: few updates, and so few averaged batches."""
MOMENTA = {"quick": (0.1, 0.01), "full": (0.1, 0.03, 0.01)}
FACTORS = {"quick": (1.0, 2.0, 4.0), "full": (0.25, 1.0, 2.0, 4.0, 16.0)}
"""Of the best learning rate."""
HIGH = 4.0
"""The factor at which hypotheses are judged: weights that move fast leave an average behind."""


def ask(lab: Lab) -> Requests[Findings]:
    """Train at the best rate and at higher ones, and evaluate by moving averages and by recalibrated statistics."""
    size = min(LARGE, length(lab.task.train) // 2)
    arm = lab.normalized(None)
    arm = arm.on(f"{arm.name}, batch {size}", edit(batch_size, size=size))
    tuned = (yield from lab.tune([arm], lab.shortfall, detail="end"))[arm]
    momenta, factors = MOMENTA[lab.profile], FACTORS[lab.profile]
    at = {(m, factor): _at(tuned, arm, m, factor) for m in momenta for factor in factors}
    yield [trial for each in at.values() for trial in lab.trials(each).values()]
    pairs = [_better(lab, at[m, HIGH], m) for m in momenta]
    pairs += [_better(lab, at[m, 1.0], m, beside=True) for m in momenta]
    effects = lab.judge(pairs)
    shown = {"recalibrated": final_by(lab, "recalibrated"), "mismatch in SD": probe("mismatch")}
    return Findings(
        headline=headline("Moving averages lag behind, and recalibrated statistics are better", effects),
        effects=effects,
        charts=(_by_factor(lab, at, momenta), chosen_settings([tuned])),
        tables=(arms_table(lab, at.values(), shown),),
        notes=(
            f"Batches of {size}. The learning rate and the initial weights are those that are best for the seed with "
            f"momentum 0.1, and the rate is multiplied by up to {exact(max(factors))}. Momentum decides nothing in "
            "training: both arms of a comparison are the same trained network. The mismatch is that of the norm whose "
            "output in evaluation is furthest from that in training.",
            *edge_notes([tuned]),
        ),
    )


def _at(tuned: Tuned, arm: Arm, momentum: float, factor: float) -> Tuned:
    """The tuned arm with another momentum, at its best rate times `factor`, measured by both kinds of statistics."""
    name = f"{arm.name}, momentum {momentum:g}, {exact(factor)} × the best rate"
    change = edit(set_norms, momentum=momentum)

    def changed(best: Setting) -> Setting:
        return Setting(
            best.arm.but(name, change, probes=(recalibrated_metric, largest_mismatch)), best.rate * factor
        )

    return replace(tuned.changed(arm.called(name), changed), ends=False)


def _better(lab: Lab, tuned: Tuned, momentum: float, *, beside: bool = False) -> Pairs:
    """The pairs of one hypothesis: recalibrated statistics are better than moving averages in the same networks."""
    rate = "best rate" if beside else f"{exact(HIGH)} × the best rate"
    hypothesis = Hypothesis(
        name=f"final metric, momentum {momentum:g}, {rate}: recalibrated vs moving averages",
        text=f"at {rate} and momentum {momentum:g}, recalibrated statistics are more than 1 point better than moving "
        "averages",
        treatment=f"recalibrated statistics, momentum {momentum:g}",
        control=f"moving averages, momentum {momentum:g}",
        unit="points",
        scale="difference",
        margin=1.0,
        better=lab.better,
        beside=beside,
    )
    series = lab.series(tuned, points_by(lab, "recalibrated")), lab.series(tuned, lab.points)
    return lab.pairs(hypothesis, *series, lab.diverged(tuned, tuned))


def _by_factor(lab: Lab, at: Mapping[tuple[float, float], Tuned], momenta: Iterable[float]) -> Chart:
    """The final test metric against the learning rate, by moving averages and by recalibrated statistics."""
    arms = {
        f"moving averages, momentum {m:g}": {factor: each for (own, factor), each in at.items() if own == m}
        for m in momenta
    }
    recalibrated = "recalibrated statistics"
    arms[recalibrated] = next(iter(arms.values()))
    return response(
        lab,
        arms,
        name="statistics",
        title="Final test metric by the statistics of inference",
        to="learning rate, in multiples of the best",
        measures={recalibrated: final_by(lab, "recalibrated")},
    )


QUESTION = Question(
    name="moving-averages",
    title="Do the moving averages of inference match the statistics of training?",
    claim="Moving averages of the statistics lag behind the weights, most at large batches, high learning rates and "
    "low momentum; statistics that are measured anew on the training data close the gap.",
    source="Wu & Johnson 2021, section 3 (ResNet-50 at batches of 8192: moving averages far behind while the rate is "
    "high, alike at the end); Singh & Shrivastava 2019: +6.18 points on ImageNet at batches of 2",
    method="Batches of 256, each seed at its own best initial weights and learning rate, and at multiples of it. "
    "The same trained network is evaluated by its moving averages and by statistics recalibrated over all training "
    "data; final test metric, paired by seed. A gap has to be more than a point.",
    ask=ask,
    profiles=("full",),
)
