"""Does batch norm regularise, and the less the larger the batch?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from normsmith.errors import StudyError
from normsmith.studies.arms import Arm, edit
from normsmith.studies.data_edits import batch_size, few_samples, label_noise
from normsmith.studies.figures import (
    arms_table,
    band,
    chosen_settings,
    edge_notes,
    headline,
    probe,
    rate_response,
    response,
)
from normsmith.studies.lab import Lab, Measure, Sample
from normsmith.studies.probes import FEWEST, NOISE_SIZES, noise_by_batch, training_metric
from normsmith.studies.question import Findings, Question
from normsmith.studies.results import Chart
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.trial import Outcome
from normsmith.studies.tuning import Requests, Setting, Tuned
from normsmith.tasks.datasets import length

LARGE = 256
"""Samples in a batch of SGD, or half of the training data where that is fewer."""
PARTS = {"quick": (1, 16), "full": (1, 2, 4, 8, 16, 32)}
"""Into how many parts a batch is divided, each of which is normalised by itself."""
SMALL = 16
"""The number of parts at which the gap is judged."""
WRONG = 0.3
"""The share of training labels that are drawn anew: something to overfit."""
FEW = 0.25
"""The share of training samples that the full profile trains on too, with right labels: another thing to overfit."""
SLOPE = -0.5
"""Of the noise in the size of the batch, on logarithmic scales, where samples are independent."""


def ask(lab: Lab) -> Requests[Findings]:
    """Train on wrong labels at one SGD batch with ever smaller normalised parts, and compare how much is overfitted.

    The full profile does the same on few samples, with two sizes of the parts.
    """
    size = min(LARGE, length(lab.task.train) // 2)
    least = max(4 * SMALL, FEWEST * NOISE_SIZES[1])
    if length(lab.task.train) < least:
        raise StudyError(
            f"expected at least {least} training samples, so that a batch divides and the noise can be measured at two "
            f"sizes, got {length(lab.task.train)}"
        )
    arms = {
        size // parts: _arm(lab, size, size // parts) for parts in PARTS[lab.profile] if size // parts > 1
    }
    parts_of_few = (size // SMALL, size // 2) if lab.profile == "full" else ()
    on_few = {own: _arm_on_few(lab, size // 2, own) for own in parts_of_few}
    flat = yield from lab.tune([*arms.values(), *on_few.values()], lab.shortfall, detail="end")
    measured = {own: _measured(flat[arm], arm, whole=own == size) for own, arm in arms.items()}
    few = {own: _measured(flat[arm], arm, whole=False) for own, arm in on_few.items()}
    best = [*measured.values(), *few.values()]
    yield [trial for each in best for trial in lab.trials(each).values()]
    pairs = [_gap(lab, measured, (size // SMALL, size)), _slope(lab, measured[size])]
    if few:
        pairs.append(_gap(lab, few, (size // SMALL, size // 2), " on few samples"))
    effects = lab.judge(pairs)
    return Findings(
        headline=headline("Batch norm regularises, and less at larger batches", effects),
        effects=effects,
        charts=(
            _gaps(lab, measured, few),
            _noise(lab, measured[size]),
            rate_response(lab, flat.values()),
            chosen_settings(best),
        ),
        tables=(arms_table(lab, best, {"training metric": probe("training metric")}),),
        notes=(
            f"The SGD batch stays at {size}; so many of its samples are normalised together. {WRONG:.0%} of the "
            "training labels are drawn anew, the same for every arm and seed; validation and test are as they are. The "
            "gap is the metric on the training data, wrong labels included, in evaluation, less that on test.",
            *(
                [
                    f"“Few samples”: {FEW:.0%} of the training data, the same for every arm and seed, with their right "
                    f"labels, at an SGD batch of {size // 2}."
                ]
                if few
                else []
            ),
            *edge_notes(flat.values()),
        ),
    )


def _arm(lab: Lab, size: int, normalised: int) -> Arm:
    """Batch norm over so many samples at a time, on large batches with wrong labels."""
    arm = lab.normalized(None) if normalised == size else lab.normalized(None, ghost_batch_size=normalised)
    data = edit(batch_size, size=size), edit(label_noise, share=WRONG)
    return arm.on(f"{arm.name}, {normalised} samples", *data)


def _arm_on_few(lab: Lab, size: int, normalised: int) -> Arm:
    """Batch norm over so many samples at a time, on few samples with right labels."""
    arm = lab.normalized(None) if normalised == size else lab.normalized(None, ghost_batch_size=normalised)
    data = edit(few_samples, share=FEW), edit(batch_size, size=size)
    return arm.on(f"{arm.name}, {normalised} of few samples", *data)


def _measured(tuned: Tuned, arm: Arm, *, whole: bool) -> Tuned:
    """The tuned arm with the metric on training data, and the noise where whole batches are normalised."""
    probes = (training_metric, noise_by_batch) if whole else (training_metric,)
    changed = tuned.changed(arm, lambda best: Setting(best.arm.but(arm.name, probes=probes), best.rate))
    return replace(changed, ends=False)


def _gap_of(lab: Lab) -> Measure:
    """How much better the metric is on training data than on test, in points; NaN of a trial that diverged."""
    sign = 1 if lab.task.higher_is_better else -1

    def measure(outcome: Outcome) -> Sample:
        if outcome.status != "finished":
            return math.nan, 0
        return sign * (outcome.probes["training metric"][-1] - outcome.test[-1]) / lab.task.point, 0

    return measure


def _gap(lab: Lab, measured: Mapping[int, Tuned], sizes: tuple[int, int], on: str = "") -> Pairs:
    """The pairs of the hypothesis that less is overfitted where fewer samples are normalised together.

    `sizes` are the smaller and the larger number of them, `on` the data where they are others.
    """
    less, more = sizes
    hypothesis = Hypothesis(
        name=f"train–test gap{on}: {less} vs {more} samples",
        text=f"the gap{on} is more than 2 points smaller with {less} samples normalised together than with {more}",
        treatment=measured[less].arm.name,
        control=measured[more].arm.name,
        unit="points of the gap",
        scale="difference",
        margin=2.0,
        better="lower",
    )
    pairs = lab.compare(hypothesis, measured[less], measured[more], _gap_of(lab))
    return lab.where_both_learn(
        pairs, measured[less], measured[more], "a network that does not learn overfits nothing"
    )


def _slope(lab: Lab, measured: Tuned) -> Pairs:
    """The pairs of the hypothesis that the noise falls with the square root of the batch."""
    hypothesis = Hypothesis(
        name="slope of the normalisation noise in the batch size",
        text="on logarithmic scales the slope of the noise in the batch size is within 0.1 of −1/2",
        treatment=f"the slope in {measured.arm.name}",
        control="−1/2, that of independent samples",
        unit="",
        scale="difference",
        margin=0.1,
        better="higher",
        kind="equivalence",
    )
    slopes = lab.series(measured, probe("noise slope"))
    return lab.pairs(hypothesis, slopes, dict.fromkeys(slopes, (SLOPE, 0)), lab.diverged(measured, measured))


def _gaps(lab: Lab, measured: Mapping[int, Tuned], few: Mapping[int, Tuned]) -> Chart:
    """The metric on test and on training data against the number of samples that are normalised together."""
    lines = {"wrong labels": measured, **({"few samples": few} if few else {})}
    return response(
        lab,
        {
            f"{data}, {split}": {float(own): tuned for own, tuned in line.items()}
            for data, line in lines.items()
            for split in ("test", "training")
        },
        name="sizes",
        title="Final metric by the number of samples that are normalised together",
        to="samples normalised together",
        measures={f"{data}, training": probe("training metric") for data in lines},
        of="",
    )


def _noise(lab: Lab, measured: Tuned) -> Chart:
    """The normalisation noise against the size of the batch."""
    samples = {
        float(size): [value for value, _ in lab.series(measured, probe(f"noise at {size}")).values()]
        for size in NOISE_SIZES
    }
    return Chart(
        name="noise",
        title="Normalisation noise by batch size",
        x_title="samples in a batch",
        y_title="noise, in standard deviations",
        log_x=True,
        lines=(band(measured.arm.name, samples),),
        description="What batch norm adds because a batch's statistics are not those of the data, mean over the norms, "
        "against the size of the batch; median over seeds, band between quartiles.",
    )


QUESTION = Question(
    name="regularisation",
    title="Does batch norm regularise, and the less the larger the batch?",
    claim="The statistics of a batch are noisy, the more the fewer samples it has, and the noise regularises: less is "
    "overfitted at smaller normalised batches. The noise falls with the square root of the batch.",
    source="Ioffe & Szegedy 2015, section 3.4; Luo et al. 2019 (an explicit penalty, from the noise); Hoffer et al. "
    "2017 (ghost batches: a smaller gap at large batches)",
    method="Batches of 256 for SGD with 30 % of the training labels drawn anew; statistics are taken over the whole "
    "batch or over parts of it; in the full profile also of 128, on a quarter of the data with right labels. Each arm "
    "and seed at its own best initial weights and learning rate; the metric on training data less that on test, paired "
    "by seed. The noise is measured in the trained network at batches of 8 to "
    "128.",
    ask=ask,
    profiles=("full",),
)
