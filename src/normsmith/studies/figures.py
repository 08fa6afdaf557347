"""Charts and tables that questions share: medians over seeds with the band between the quartiles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median, median_low, stdev

import numpy as np

from normsmith._text import count, exact, number
from normsmith.studies import notation
from normsmith.studies.initial_weights import weights_of
from normsmith.studies.lab import Lab, Measure, Sample
from normsmith.studies.results import Chart, Effect, Line, Strip, StripChart, Table, Verdict
from normsmith.studies.statistics import Pairs
from normsmith.studies.trial import Outcome
from normsmith.studies.tuning import Tuned
from normsmith.tasks.metrics import name_of

WELL_INITIALISED = (
    "Every arm is offered good initial weights beside the network's own, and takes what is better on validation: the "
    "judged comparisons are with a well-initialised network. “As initialised” stands for the network's own weights "
    "alone; that comparison is shown beside them, and not judged."
)


def target_note(
    lab: Lab, target: float, *, at_end: bool = False, control: str = "the network without norms"
) -> str:
    """What the target is, where it comes from, and when it counts as reached: on the way, or at the end.

    `control` is the arm whose best setting the target is taken from where the task has none.
    """
    origin = (
        ""
        if lab.task.target is not None
        else f", 97 % of the way from the untrained network to the best of {control}, on validation"
    )
    held = "reached at the end of the budget" if at_end else "held at two evaluations in a row"
    return f"Target: test metric {number(target, 4)}{origin}, {held}."


def unreached(lab: Lab, target: float, arms: Iterable[Tuned]) -> tuple[str, ...]:
    """A note where no arm reaches the target for any seed: more seeds would not help."""
    steps = lab.steps_to(target)
    if any(not bound for tuned in arms for _, bound in lab.series(tuned, steps).values()):
        return ()
    return (
        f"No arm reached the target within {lab.steps} steps for any seed, and more seeds will not change that: give "
        "more steps (`--steps`), or a target within reach (`Task(..., target=...)`).",
    )


def band(label: str, samples: Mapping[float, Sequence[float]]) -> Line:
    """A line of medians with quartiles, from the values of the seeds at each x; gaps where none is finite."""
    xs = sorted(samples)
    finite = [[value for value in samples[x] if math.isfinite(value)] for x in xs]
    quartiles = [
        np.quantile(values, (0.25, 0.5, 0.75)).tolist() if values else (None,) * 3 for values in finite
    ]
    low, middle, high = zip(*quartiles, strict=True) if quartiles else ((), (), ())
    return Line(label=label, x=tuple(xs), y=middle, low=low, high=high)


def _spans_decades(lines: Iterable[Line]) -> bool:
    """Whether what is drawn is positive and some of it a hundred times the rest, as losses are; not a share, though.

    On a linear axis all but the largest would lie on the ground. A share has its place between 0 and 1.
    """
    values = [v for line in lines for part in (line.y, line.low, line.high) for v in part if v is not None]
    return bool(values) and min(values) > 0 and max(values) > max(1.0, 100 * min(values))


def training_curves(lab: Lab, arms: Iterable[Tuned]) -> Chart:
    """The test metric while training, each seed at its own best setting."""
    lines = []
    for tuned in arms:
        outcomes = [o for o in lab.measured(tuned).values() if o.status == "finished"]
        samples: dict[float, list[float]] = {}
        for outcome in outcomes:  # one whose metric was not finite before training starts a point later
            for step, value in zip(outcome.steps, outcome.test, strict=True):
                samples.setdefault(float(step), []).append(value)
        lines.append(band(tuned.arm.name, samples))
    return Chart(
        name="training",
        title="Training curves",
        x_title="optimizer steps",
        y_title=f"test {name_of(lab.task.metric)}",
        log_y=_spans_decades(lines),
        lines=tuple(lines),
        description="Test metric against steps, median over seeds, band between quartiles. At the end: "
        + _ends(lines),
    )


def rate_response(lab: Lab, arms: Iterable[Tuned]) -> Chart:
    """The final validation metric, which rates are tuned on, at every rate that ran all its steps."""
    lines = [band(tuned.arm.name, _by_rate(lab, tuned)) for tuned in arms]
    return Chart(
        name="rates",
        title="Response to the learning rate",
        x_title="learning rate",
        y_title=f"final validation {name_of(lab.task.metric)}",
        log_x=True,
        log_y=_spans_decades(lines),
        lines=tuple(lines),
        description="Final validation metric against learning rate, each seed at the better of its initial weights; "
        "median over the seeds that tried the rate to the end, band between quartiles. A seed tries what looks best "
        "to it, so that few seeds stand at the ends.",
    )


def response(
    lab: Lab,
    arms: Mapping[str, Mapping[float, Tuned]],
    *,
    name: str,
    title: str,
    to: str,
    measures: Mapping[str, Measure] | None = None,
    of: str = "test ",
    log_x: bool = True,
) -> Chart:
    """The final metric against something that was varied: for each line, an arm at each of its values.

    Args:
        lab: the study.
        arms: by the label of the line, then by the value.
        name: of the chart, for its place in a page.
        title: of the chart.
        to: what was varied: the title of the axis.
        measures: by the label of a line, what is read off its trials if it is not the final test metric as it is.
        of: the split that the metric is of, with a space; empty where lines are of several.
        log_x: whether what was varied is drawn on a logarithmic axis.
    """
    read = dict(measures or {})
    lines = [
        band(
            label,
            {
                x: [value for value, _ in lab.series(at, read.get(label, lab.final)).values()]
                for x, at in line.items()
            },
        )
        for label, line in arms.items()
    ]
    return Chart(
        name=name,
        title=title,
        x_title=to,
        y_title=f"final {of}{name_of(lab.task.metric)}",
        log_x=log_x,
        log_y=_spans_decades(lines),
        lines=tuple(lines),
        description=f"Final {of}metric against {to}, median over seeds, band between quartiles.",
    )


def _by_rate(lab: Lab, tuned: Tuned) -> dict[float, list[float]]:
    """For each rate the validation metric of each seed that tried it to the end, at its better initial weights."""
    better = max if lab.task.higher_is_better else min
    values: dict[float, dict[int, float]] = {}
    for seed, settings in tuned.tried.items():
        for setting in settings:
            outcome = lab.outcomes[lab.trial(setting, seed, tuned.detail)]
            if outcome.measured:
                value = lab.final(outcome, "validation")[0]
                seeds = values.setdefault(setting.rate, {})
                seeds[seed] = better(value, seeds.get(seed, value))
    return {rate: list(seeds.values()) for rate, seeds in values.items()}


def chosen_settings(arms: Iterable[Tuned]) -> StripChart:
    """Which learning rate and which initial weights each seed chose."""
    rows = [
        Strip(
            label=tuned.arm.name,
            x=tuple(setting.rate for setting in tuned.chosen.values()),
            kinds=tuple(weights_of(setting.arm) for setting in tuned.chosen.values()),
        )
        for tuned in arms
    ]
    return StripChart(
        name="chosen",
        title="What each seed chose on validation",
        x_title="learning rate",
        log_x=True,
        rows=tuple(rows),
        description="The learning rate and the initial weights of each seed: the network's own, by activation (He's or "
        "Xavier's), or by data. Median rates: "
        + "; ".join(f"{row.label} {exact(median_low(row.x))}" for row in rows)
        + ".",
    )


def arms_table(lab: Lab, arms: Iterable[Tuned], more: Mapping[str, Measure] | None = None) -> Table:
    """One row an arm: what its seeds chose, final test metric, further measures, trials that diverged."""
    measures = dict(more or {})
    rows = []
    for tuned in arms:
        measured = lab.measured(tuned)
        diverged = sum(outcome.status == "diverged" for outcome in measured.values())
        finals = [value for value, _ in lab.series(tuned, lab.final).values()]
        worst = (min if lab.task.higher_is_better else max)(finals, default=math.nan)
        cells = [tuned.arm.name, _rates(tuned), _weights(tuned), middle(lab, tuned, lab.final)]
        cells += ["–" if math.isnan(worst) else number(worst, 4), _spread(finals)]
        cells += [middle(lab, tuned, measure) for measure in measures.values()]
        rows.append((*cells, f"{diverged} of {len(measured)}"))
    return Table(
        title="Arms, each seed at its own best setting (median over seeds)",
        columns=("arm", "rate", "weights", "test metric", "worst seed", "mean ± SD", *measures, "diverged"),
        rows=tuple(rows),
    )


def _rates(tuned: Tuned) -> str:
    """The median rate, and the range where seeds differ."""
    rates = sorted(setting.rate for setting in tuned.chosen.values())
    middle_rate = exact(rates[(len(rates) - 1) // 2])
    return middle_rate if rates[0] == rates[-1] else f"{middle_rate} ({exact(rates[0])}–{exact(rates[-1])})"


def _weights(tuned: Tuned) -> str:
    """How many seeds chose which initial weights."""
    chosen = Counter(weights_of(setting.arm) for setting in tuned.chosen.values())
    return next(iter(chosen)) if len(chosen) == 1 else ", ".join(f"{w} {n}" for w, n in chosen.most_common())


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation: a median hides the seeds that are not typical."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2 or len(finite) < len(values):
        return "–"
    return f"{number(fmean(finite), 4)} ± {number(stdev(finite), 2)}"


def middle(lab: Lab, tuned: Tuned, measure: Measure) -> str:
    """The median over seeds as text; 'never' where more than half of them are censored, a dash where none has one."""
    samples = [*lab.series(tuned, measure).values()]
    if all(math.isnan(value) for value, _ in samples):
        return "–"
    censored = sum(bool(censored) for _, censored in samples)
    if 2 * censored > len(samples):
        return "never"
    text = number(median(value for value, _ in samples), 4)
    return f"{text} ({censored} never)" if censored else text


def counted(values: Iterable[float]) -> str:
    """What the seeds have, as the median, the quartiles and how many have which: `2 (1 to 2); 1: 6, 2: 14`.

    >>> counted([1.0, 2.0, 2.0, 2.0])
    '2 (1.75 to 2); 1: 1, 2: 3'
    """
    ordered = sorted(values)
    if not ordered:
        return "–"
    low, middle_one, high = np.quantile(ordered, (0.25, 0.5, 0.75)).tolist()
    seeds = ", ".join(f"{exact(value)}: {n}" for value, n in Counter(ordered).items())
    return f"{exact(middle_one)} ({exact(low)} to {exact(high)}); {seeds}"


def probe(name: str, missing: float = math.nan) -> Measure:
    """The last value of a probe; `missing` where the trial has none (it diverged before the first)."""

    def measure(outcome: Outcome) -> Sample:
        values = outcome.probes.get(name, ())
        return (values[-1] if values else missing), 0

    return measure


def edge_notes(arms: Iterable[Tuned]) -> tuple[str, ...]:
    """A warning for each arm some of whose seeds are best at the smallest or the largest rate that is tried at all."""
    return tuple(
        f"For {len(seeds)} of {count(len(tuned.chosen), 'seed')} the best learning rate of “{tuned.arm.name}” is "
        f"{exact(tuned.limits[which])}, the {name} that is tried: a better one may lie beyond."
        for tuned in arms
        for which, name in enumerate(("smallest", "largest"))
        if (seeds := tuned.on_limit(which))
    )


def ceiling_notes(lab: Lab, pairs: Iterable[Pairs]) -> tuple[str, ...]:
    """A note for each control that is so good that there is no room above it for the effect that is claimed."""
    most = 1 / lab.task.point
    notes = []
    for pair in pairs:
        claim, control = pair.hypothesis, median(pair.control)
        is_share = all(0 <= value <= most for value in (*pair.treatment, *pair.control))
        if (claim.unit, claim.better) == ("points", "higher") and is_share and control + claim.margin >= most:
            notes.append(
                f"A ceiling: “{claim.control}” is at {number(control, 3)} of {number(most, 3)} points, if the metric "
                f"ends at 1. More than {number(most - control, 2)} points above it were not possible, which is less "
                "than is claimed."
            )
    return tuple(notes)


def headline(claim: str, effects: Sequence[Effect]) -> str:
    """One sentence with the claim, the verdicts on it, and the estimates; without what is shown beside them."""
    by_verdict: dict[Verdict, list[str]] = {}
    for effect in effects:
        if effect.beside:
            continue
        failed = f", but {effect.failed[0]} of {len(effect.seeds)} diverged" if effect.failed[0] else ""
        by_verdict.setdefault(effect.verdict, []).append(f"{effect.name} {notation.estimate(effect)}{failed}")
    parts = [f"{verdict} ({', '.join(estimates)})" for verdict, estimates in by_verdict.items()]
    return f"{claim}: {'; '.join(parts)}."


def _ends(lines: Iterable[Line]) -> str:
    return "; ".join(
        f"{line.label}: {number(line.y[-1], 4)}" for line in lines if line.y and line.y[-1] is not None
    )
