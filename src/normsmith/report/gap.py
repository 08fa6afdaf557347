"""Where the gap between training and evaluation comes from, step by step, from one end to the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from normsmith._text import number, path_text, signed, some
from normsmith.checks import Finding
from normsmith.report import svg
from normsmith.report.axes import Axis, axis_of
from normsmith.report.plots import Figure, KeyEntry, Panel, axis_panel

_ROW = 28


@dataclass(frozen=True)
class _Step:
    """What one part adds: from where to where, its spread between batches, and what it adds in other orders."""

    label: str
    start: float
    added: float
    spread: float | None
    alone: float | None
    reversed: float | None

    @property
    def end(self) -> float:
        return self.start + self.added

    @property
    def others(self) -> list[tuple[str, float]]:
        """Where this step would have ended in other orders, by the symbol of each."""
        pairs = (("circle-open", self.alone), ("diamond-open", self.reversed))
        return [(symbol, self.start + value) for symbol, value in pairs if value is not None]


def gap_figure(finding: Finding) -> Figure | None:
    """The steps of the evidence of a finding, each from where the one before ended; None where it has none.

    The loss is drawn, or the metric where there is no loss.
    """
    measure = "loss" if "loss" in finding.evidence.get("evaluation", {}) else "metric"
    steps = _steps(finding.evidence, measure)
    values = [value for step in steps for value in (step.start, step.end)]
    if not steps or not all(map(math.isfinite, values)):
        return None
    axis = axis_of(values, pad=0.15)
    panels = [Panel(step.label, signed(step.added), _drawn(step, axis)) for step in steps]
    return Figure(
        title=f"From training to evaluation: where the {measure} goes",
        description=f"The mean {measure} on held-back batches, from training to evaluation. First dropout is switched "
        "off, then running statistics take the place of the batch's, layer after layer: these steps add up. Each part "
        "alone, and in the reverse order, add something else, since layers work on what those before them leave: "
        "these do not add up, and what lies beyond the axis is in the table alone.",
        panels=(*panels, axis_panel(axis)),
        x_title=f"{measure} on held-back batches",
        key=(
            KeyEntry("added, in order", "series-0", "", "square"),
            KeyEntry("alone (does not add up)", "ink", "", "circle-open"),
            KeyEntry("in reverse order (does not add up)", "ink", "", "diamond-open"),
        ),
        columns=("part", measure, "added", "spread between batches", "alone", "in reverse order"),
        rows=tuple(
            (
                step.label,
                number(step.end, 4),
                signed(step.added),
                *map(_cell, (step.spread, step.alone, step.reversed)),
            )
            for step in steps
        ),
    )


def _steps(evidence: Mapping[str, Any], measure: str) -> list[_Step]:
    """The steps in the order in which they are made."""
    layers = evidence.get("steps", [])
    if not layers:
        return []
    total = evidence["evaluation"][measure]["mean"]
    start = total - sum(part["in_order"][measure]["mean"] for part in layers)
    steps = []
    off = evidence.get("dropout_off")
    if off is not None and any(off.get(measure, {}).get("batches", ())):
        added = off[measure]["mean"]
        steps.append(_Step("dropout off", start - added, added, off[measure]["spread"], None, None))
    for part in layers:
        own = part["in_order"][measure]
        others = (part[order].get(measure, {}).get("mean") for order in ("alone", "reversed"))
        label = some([path_text(path) for path in part["layers"]], 3)
        steps.append(_Step(label, start, own["mean"], own["spread"], *others))
        start += own["mean"]
    return steps


def _drawn(step: _Step, axis: Axis) -> Markup:
    start, end = axis.share(step.start), axis.share(step.end)
    spread = Markup("")
    if step.spread is not None and math.isfinite(step.spread):
        edges = [min(max(axis.share(step.end + side * step.spread), 0.0), 1.0) for side in (-1, 1)]
        spread = svg.line((edges[0], edges[1]), (_ROW / 2, _ROW / 2), "base")
    return svg.drawing(
        _ROW,
        svg.grid(axis, 0, _ROW),
        svg.area((min(start, end), max(start, end)), (_ROW / 2 - 6, _ROW / 2 + 6), "bar series-0"),
        svg.line((start, start), (0, _ROW / 2 + 6), "base"),
        spread,
        *(
            svg.mark(symbol, axis.share(at), _ROW / 2, "ink", f"{step.label}: {signed(at - step.start)}")
            for symbol, at in step.others
            if axis.low <= at <= axis.high
        ),
    )


def _cell(value: float | None) -> str:
    return "" if value is None else signed(value) if value < 0 else number(value)
