"""Pictures of what a check measured: each layer against the threshold, and the loss before and after each fix."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from normsmith._text import number, path_text
from normsmith.checks import Finding, Fix
from normsmith.report import svg
from normsmith.report.axes import Axis, axis_of
from normsmith.report.plots import Figure, KeyEntry, Panel, axis_panel

_MOST = 12
"""Layers of one rule that are drawn; the table has them all."""
_ROW = 26


def measured_figure(findings: Sequence[Finding]) -> Figure | None:
    """Where each layer lies against its threshold; None where nothing was measured that has a place on an axis."""
    drawn = [f for f in findings if _has_place(f.measured) and _has_place(f.threshold)]
    if not drawn:
        return None
    values = [value for f in drawn for value in (f.measured, f.threshold) if value is not None]
    axis = _axis(values)
    name = drawn[0].quantity or "measured"
    panels = [
        Panel(path_text(f.path), f"{number(f.measured or 0.0)}", _against(f, axis)) for f in drawn[:_MOST]
    ]
    return Figure(
        title=f"{name[:1].upper()}{name[1:]}" + (", layer by layer" if any(f.path for f in drawn) else ""),
        description=f"{name}: what was measured, and the threshold from which on it is reported.",
        panels=(*panels, axis_panel(axis)),
        x_title=name,
        key=(
            KeyEntry("measured", "series-0", "", "circle"),
            KeyEntry("threshold", "reversed", "", "diamond"),
        ),
        columns=("layer", name, "threshold"),
        rows=tuple(
            (path_text(f.path), number(f.measured or 0.0, 4), number(f.threshold or 0.0, 4)) for f in drawn
        ),
    )


def proof_figure(findings: Sequence[Finding]) -> Figure | None:
    """The loss before and after each fix that was tried; None where there is none."""
    tried: dict[Fix, tuple[float, float]] = {}
    rules: dict[Fix, list[str]] = {}
    for finding in findings:
        pair = None if finding.proof is None else finding.proof.loss
        if pair is not None and all(map(math.isfinite, pair)):
            tried[finding.fix] = pair
            rules.setdefault(finding.fix, []).append(finding.code)
    if not tried:
        return None
    axis = _axis([value for pair in tried.values() for value in pair])
    names = {fix: ", ".join(dict.fromkeys(codes)) for fix, codes in rules.items()}
    panels = [
        Panel(names[fix], f"{number(pair[0])} → {number(pair[1])}", _step(pair, axis))
        for fix, pair in list(tried.items())[:_MOST]
    ]
    return Figure(
        title="Loss in evaluation, before and after each fix",
        description="Loss on batches of the check, as the model is and with the fix alone, on a copy.",
        panels=(*panels, axis_panel(axis)),
        x_title="loss, lower is better",
        key=(
            KeyEntry("before", "reversed", "", "circle-open"),
            KeyEntry("after", "holds", "", "circle"),
        ),
        columns=("rules", "fix", "before", "after"),
        rows=tuple(
            (names[fix], fix.code, number(pair[0], 4), number(pair[1], 4)) for fix, pair in tried.items()
        ),
    )


def _axis(values: Sequence[float]) -> Axis:
    """A log axis where values are far apart and all are positive."""
    log = min(values) > 0 and max(values) > 20 * min(values)
    return axis_of((float(f"{value:.2g}") for value in values), log=log, pad=0.08)


def _against(finding: Finding, axis: Axis) -> Markup:
    assert finding.measured is not None
    assert finding.threshold is not None
    at, limit = axis.share(finding.measured), axis.share(finding.threshold)
    return svg.drawing(
        _ROW,
        svg.grid(axis, 0, _ROW),
        svg.line((min(at, limit), max(at, limit)), (_ROW / 2, _ROW / 2), "base"),
        svg.mark("diamond", limit, _ROW / 2, "reversed", f"threshold {number(finding.threshold)}"),
        svg.mark("circle", at, _ROW / 2, "series-0", f"measured {number(finding.measured)}"),
    )


def _step(pair: tuple[float, float], axis: Axis) -> Markup:
    before, after = map(axis.share, pair)
    return svg.drawing(
        _ROW,
        svg.grid(axis, 0, _ROW),
        svg.line((min(before, after), max(before, after)), (_ROW / 2, _ROW / 2), "base"),
        svg.mark("circle-open", before, _ROW / 2, "reversed", f"before {number(pair[0])}"),
        svg.mark("circle", after, _ROW / 2, "holds", f"after {number(pair[1])}"),
    )


def _has_place(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and abs(value) < 1e300
