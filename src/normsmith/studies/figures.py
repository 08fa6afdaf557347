"""Charts and tables that questions share: medians over seeds with the band between the quartiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import numpy as np

from normsmith._text import exact, number
from normsmith.studies import notation
from normsmith.studies.lab import Lab, Measure, Sample, Tuned
from normsmith.studies.results import Chart, Effect, Line, Table, Verdict
from normsmith.studies.trial import Outcome


def band(label: str, samples: Mapping[float, Sequence[float]], marked: Sequence[float] = ()) -> Line:
    """A line of medians with quartiles, from the values of the seeds at each x; gaps where none is finite."""
    xs = sorted(samples)
    finite = [[value for value in samples[x] if math.isfinite(value)] for x in xs]
    quartiles = [
        np.quantile(values, (0.25, 0.5, 0.75)).tolist() if values else (None,) * 3 for values in finite
    ]
    low, middle, high = zip(*quartiles, strict=True) if quartiles else ((), (), ())
    return Line(label=label, x=tuple(xs), y=middle, low=low, high=high, marked=tuple(marked))


def training_curves(lab: Lab, arms: Iterable[Tuned]) -> Chart:
    """The test metric while training, each arm at its tuned rate."""
    lines = []
    for tuned in arms:
        outcomes = [o for o in lab.measured(tuned).values() if o.status == "finished"]
        samples: dict[float, list[float]] = {}
        for outcome in outcomes:  # one whose metric was not finite before training starts a point later
            for step, value in zip(outcome.steps, outcome.test, strict=True):
                samples.setdefault(float(step), []).append(value)
        lines.append(band(f"{tuned.arm.name} (rate {exact(tuned.rate)})", samples))
    return Chart(
        name="training",
        title="Training curves",
        x_title="optimizer steps",
        y_title="test metric",
        lines=tuple(lines),
        description="Test metric against steps, median over seeds, band between quartiles. At the end: "
        + _ends(lines),
    )


def rate_response(lab: Lab, arms: Sequence[Tuned], *, marked: bool = True) -> Chart:
    """The final test metric at every learning rate that was tried.

    With `marked` the arms were tuned: the tuned rates are pointed out, and every rate is shown for the seeds that
    rates are tuned on; without it for all.
    """

    def seen(at: Tuned) -> list[float]:
        return (
            lab.tuning_values(at, lab.final)
            if marked
            else [value for value, _ in lab.series(at, lab.final).values()]
        )

    lines = []
    for tuned in arms:
        samples = {rate: seen(Tuned(tuned.arm, rate, tuned.tried)) for rate in tuned.tried}
        lines.append(band(tuned.arm.name, samples, marked=(tuned.rate,) if marked else ()))
    return Chart(
        name="rates",
        title="Response to the learning rate",
        x_title="learning rate",
        y_title="final test metric",
        log_x=True,
        lines=tuple(lines),
        description="Final test metric against learning rate, median over seeds, band between quartiles. "
        + "; ".join(f"{t.arm.name}: best rate on validation {exact(t.rate)}" for t in arms if marked),
    )


def arms_table(lab: Lab, arms: Iterable[Tuned], more: Mapping[str, Measure] | None = None) -> Table:
    """One row an arm: tuned rate, median final test metric, further measures, diverged and failed trials."""
    measures = dict(more or {})
    rows = []
    for tuned in arms:
        measured = lab.measured(tuned)
        diverged = sum(outcome.status == "diverged" for outcome in measured.values())
        cells = [tuned.arm.name, exact(tuned.rate) + (" (edge)" if tuned.on_edge else "")]
        cells += [middle(lab, tuned, measure) for measure in (lab.final, *measures.values())]
        rows.append((*cells, f"{diverged} of {len(measured)}"))
    return Table(
        title="Arms at their tuned learning rates (median over seeds)",
        columns=("arm", "rate", "test metric", *measures, "diverged"),
        rows=tuple(rows),
    )


def middle(lab: Lab, tuned: Tuned, measure: Measure) -> str:
    """The median over seeds as text; 'never' where more than half of them are censored."""
    samples = [sample for sample in lab.series(tuned, measure).values() if not math.isnan(sample[0])]
    if not samples:
        return "–"
    censored = sum(censored for _, censored in samples)
    if 2 * censored > len(samples):
        return "never"
    text = number(median(value for value, _ in samples), 4)
    return f"{text} ({censored} never)" if censored else text


def probe(name: str, missing: float = math.nan) -> Measure:
    """The last value of a probe; `missing` where the trial has none (it diverged before the first)."""

    def measure(outcome: Outcome) -> Sample:
        values = outcome.probes.get(name, ())
        return (values[-1] if values else missing), False

    return measure


def edge_notes(arms: Iterable[Tuned]) -> tuple[str, ...]:
    """A warning for each arm whose best rate is still on the edge of its grid."""
    return tuple(
        f"The best learning rate of “{tuned.arm.name}” is {exact(tuned.rate)}, the "
        f"{'smallest' if tuned.rate == tuned.tried[0] else 'largest'} that was tried: a better one may lie beyond."
        for tuned in arms
        if tuned.on_edge
    )


def headline(claim: str, effects: Sequence[Effect]) -> str:
    """One sentence with the claim, the verdicts on it, and the estimates."""
    by_verdict: dict[Verdict, list[str]] = {}
    for effect in effects:
        failed = f", but {effect.failed[0]} of {len(effect.seeds)} diverged" if effect.failed[0] else ""
        by_verdict.setdefault(effect.verdict, []).append(f"{effect.name} {notation.estimate(effect)}{failed}")
    parts = [f"{verdict} ({', '.join(estimates)})" for verdict, estimates in by_verdict.items()]
    return f"{claim}: {'; '.join(parts)}."


def _ends(lines: Iterable[Line]) -> str:
    return "; ".join(
        f"{line.label}: {number(line.y[-1], 4)}" for line in lines if line.y and line.y[-1] is not None
    )
