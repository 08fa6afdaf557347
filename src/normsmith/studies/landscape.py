"""Probes of how training goes: smoothness and internal covariate shift, and what questions read off them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from torch import nn

from normsmith.measure import internal_covariate_shift, iterate_of, smoothness
from normsmith.studies.figures import band
from normsmith.studies.lab import Lab, Measure, Sample
from normsmith.studies.names import named
from normsmith.studies.results import Chart
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.trial import PROBES, Outcome
from normsmith.studies.tuning import Tuned
from normsmith.tasks import Task

RATE = 0.1
"""The learning rate of the steps that are tried: the same in every arm, so that all are measured over one distance."""

_MULTIPLES = (0.5, 1.0, 2.0, 4.0)
_LEAST, _MOST = 1e-9, 1e9
"""What is measured is kept within these: ratios need positive numbers, and a loss that overflows is rough enough."""


@named("smoothness")
def smoothness_signals(model: nn.Module, task: Task) -> dict[str, float]:
    """Loss range, gradient predictiveness and effective β along the negative gradient (`measure.smoothness`).

    On one training batch, the same at each call, for steps from 0.05 to 0.4.
    """
    measured = smoothness(iterate_of(task, model), RATE, multiples=_MULTIPLES)
    return {
        "effective beta": _kept(measured.beta),
        "gradient predictiveness": _kept(measured.gradient_predictiveness),
        "loss range": _kept(measured.loss_range),
    }


@named("internal-covariate-shift")
def shift_signals(model: nn.Module, task: Task) -> dict[str, float]:
    """Internal covariate shift, the mean over layers (`measure.internal_covariate_shift`); nothing for one layer.

    On one training batch, the same at each call, for a step of 0.1.
    """
    shifts = internal_covariate_shift(iterate_of(task, model), RATE).values()
    if not shifts:
        return {}
    return {
        "absolute shift": _kept(fmean(shift.absolute for shift in shifts)),
        "relative shift": _kept(fmean(shift.relative for shift in shifts)),
        "shift cosine": fmean(shift.cosine for shift in shifts),
    }


def _kept(value: float) -> float:
    return min(max(value, _LEAST), _MOST)


def while_training(probe: str) -> Measure:
    """The geometric mean of a probe over all places of a trial at which it was taken; NaN where there is none.

    NaN too of a trial that diverged: it was taken at fewer places, early ones, and would be compared with all.
    """

    def measure(outcome: Outcome) -> Sample:
        values = outcome.probes.get(probe, ()) if outcome.status == "finished" else ()
        return (math.exp(fmean(map(math.log, values))) if values else math.nan), 0

    return measure


def ratio_of(lab: Lab, hypothesis: Hypothesis, treatment: Tuned, control: Tuned, measure: Measure) -> Pairs:
    """The pairs of a hypothesis on what probes measured; seeds of which either trial diverged are left out.

    The numbers may speak only where both networks learn: one that does not is smooth, too.

    Raises StudyError where no seed is left.
    """
    series = lab.series(treatment, measure), lab.series(control, measure)
    pairs = lab.pairs(hypothesis, *series, lab.diverged(treatment, control))
    return lab.where_both_learn(pairs, treatment, control, "a network that does not learn says nothing")


def probe_curves(lab: Lab, arms: Iterable[Tuned], probe: str, *, title: str, description: str) -> Chart:
    """A probe over the steps of training, each seed at its own best setting; on a logarithmic axis."""
    lines = []
    for tuned in arms:
        samples: dict[float, list[float]] = {}
        for outcome in lab.measured(tuned).values():
            for step, value in zip(_places(lab), outcome.probes.get(probe, ()), strict=False):
                samples.setdefault(step, []).append(value)
        lines.append(band(tuned.arm.name, samples))
    return Chart(
        name=probe.replace(" ", "-"),
        title=title,
        x_title="optimizer steps",
        y_title=probe,
        log_y=True,
        lines=tuple(lines),
        description=f"{description} Median over seeds, band between quartiles.",
    )


def _places(lab: Lab) -> Sequence[float]:
    """About the steps after which probes are taken: at the first evaluation from there on."""
    return [lab.steps * part / PROBES for part in range(1, PROBES + 1)]
