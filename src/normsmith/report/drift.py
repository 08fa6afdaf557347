"""How the means of batches lie beside each other, against what random draws would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from normsmith.checks import Finding
from normsmith.report.plots import Figure, chart_figure
from normsmith.studies.results import Chart, Line

_ERRORS = 2.0
"""Standard errors to either side that a batch drawn at random stays within, but for one in twenty."""


def drift_figures(findings: Sequence[Finding]) -> Iterator[Figure]:
    """A figure for each finding that compared batches."""
    for finding in findings:
        if "batches" in finding.evidence:
            yield chart_figure(_chart(**finding.evidence["batches"]))


def _chart(values: Sequence[float], errors: Sequence[float]) -> Chart:
    x = tuple(float(number) for number in range(1, len(values) + 1))
    edge = tuple(_ERRORS * error for error in errors)
    random = Line(
        label="where batches drawn at random would lie",
        x=x,
        y=(0.0,) * len(values),
        low=tuple(-value for value in edge),
        high=edge,
    )
    return Chart(
        name="batches",
        title="Batch after batch",
        x_title="batch",
        y_title="mean of the batch, in standard deviations of samples",
        lines=(Line(label="batches", x=x, y=tuple(values)), random),
        description="The mean of each batch along the direction in which batches differ most; the band is what "
        "two standard errors around the mean of all samples leave to chance.",
    )
