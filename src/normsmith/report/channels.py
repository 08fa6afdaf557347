"""How the channels of each layer lie against what they should be: all of them, not the worst alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from normsmith._text import number, path_text
from normsmith.checks import Finding
from normsmith.report import svg
from normsmith.report.axes import Axis, axis_of
from normsmith.report.plots import Figure, KeyEntry, Panel, axis_panel

_MOST = 12
"""Layers that are drawn; the table has them all."""
_ROW = 26
_KINDS = {
    "mean": ("Means", "standard deviations from the mean of {of}", False),
    "variance": ("Variances", "variance, as a multiple of that of {of}", True),
}


def channel_figures(findings: Sequence[Finding]) -> Iterator[Figure]:
    """One figure of the means and one of the variances of the layers whose channels were compared."""
    shown = [
        (finding, finding.evidence["channels"]) for finding in findings if "channels" in finding.evidence
    ]
    if shown:
        yield from (_figure(kind, shown) for kind in _KINDS)


def _figure(kind: str, shown: Sequence[tuple[Finding, dict[str, Any]]]) -> Figure:
    title, x_title, log = _KINDS[kind]
    what, of = shown[0][1]["what"], shown[0][1]["of"]
    low, high = shown[0][1]["allowed"][kind]
    drawn = [(path_text(finding.path), channels[kind]) for finding, channels in shown]
    axis = axis_of([low, high, *(value for _, quantiles in drawn for value in quantiles)], log=log)
    panels = [
        Panel(layer, number(quantiles[3]), _drawn(quantiles, (low, high), axis))
        for layer, quantiles in drawn[:_MOST]
    ]
    return Figure(
        title=f"{title}, layer by layer: {what} against {of}",
        description=f"{title} of all channels of each layer. The thin line reaches from the smallest to the largest, "
        "the thick one covers the middle half, the dot is the median. Grey is what is allowed.",
        panels=(*panels, axis_panel(axis)),
        x_title=x_title.format(of=of),
        key=(
            KeyEntry("median of the channels", "series-0", "", "circle"),
            KeyEntry("middle half of the channels", "series-0", "", "square"),
            KeyEntry("allowed", "allowed", "", "square"),
        ),
        columns=("layer", "smallest", "5 %", "25 %", "median", "75 %", "95 %", "largest"),
        rows=tuple((layer, *(number(value, 3) for value in quantiles)) for layer, quantiles in drawn),
    )


def _drawn(quantiles: Sequence[float], allowed: tuple[float, float], axis: Axis) -> Markup:
    middle = _ROW / 2
    at = [axis.share(value) if axis.shows(value) else math.nan for value in quantiles]
    edges = (axis.share(allowed[0]), axis.share(allowed[1]))
    parts = [svg.area(edges, (0, _ROW), "allowed"), svg.grid(axis, 0, _ROW)]
    if all(map(math.isfinite, at)):
        parts += [
            svg.line((at[0], at[-1]), (middle, middle), "base"),
            svg.area((at[2], at[4]), (middle - 4, middle + 4), "bar series-0"),
            svg.mark("circle", at[3], middle, "series-0", f"median {number(quantiles[3])}"),
        ]
    return svg.drawing(_ROW, *parts)
