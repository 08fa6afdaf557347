"""Smoothness as one offline HTML page: what happens to loss and gradient along the way of a step, as pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from normsmith._text import number
from normsmith.errors import InputError
from normsmith.measure import Smoothness
from normsmith.report.page import rendered
from normsmith.report.plots import chart_figure
from normsmith.studies.results import Chart, Line

_STEP = "step η along the negative gradient"

Curve = Callable[[Smoothness], tuple[Sequence[float], Sequence[float]]]
"""The steps and the values of a measurement that one picture shows."""


def smoothness_to_html(measured: Mapping[str, Smoothness]) -> str:
    """The page for one measurement or for several side by side, such as those of a network with and without norms.

    `measured` has a name for each `normsmith.measure.smoothness`. The page says the three numbers of each, and shows
    the loss, the change of the gradient and the effective β over the step. It makes no request. The same measurements
    give the same text.

    Raises InputError where there is none.

    >>> flat = Smoothness(steps=(0.1, 0.2), loss=1.0, gradient_norm=1.0, losses=(0.9, 0.8), gradient_changes=(0.0, 0.0))
    >>> "Loss along the gradient" in smoothness_to_html({"linear": flat})
    True
    """
    if not measured:
        raise InputError("smoothness_to_html: expected at least one measurement by its name, got none")
    return rendered(
        "smoothness.html.j2",
        columns=(
            "network",
            "loss range",
            "gradient predictiveness",
            "effective β",
            "loss",
            "norm of the gradient",
        ),
        rows=[_row(name, result) for name, result in measured.items()],
        figures=[chart_figure(chart) for chart in smoothness_charts(measured)],
    )


def smoothness_charts(measured: Mapping[str, Smoothness]) -> tuple[Chart, Chart, Chart]:
    """The pictures of measurements: loss, change of the gradient and effective β over the step, a line for each."""

    def chart(name: str, title: str, unit: str, description: str, curve: Curve) -> Chart:
        lines = [(label, *curve(result)) for label, result in measured.items()]
        return Chart(
            name=name,
            title=title,
            x_title=_STEP,
            y_title=unit,
            lines=tuple(Line(label=label, x=tuple(x), y=tuple(y)) for label, x, y in lines),
            description=description,
        )

    return (
        chart(
            "loss",
            "Loss along the gradient",
            "loss",
            "The loss on the same batch after a step of each size. The wider its range, the rougher the way.",
            lambda result: ((0.0, *result.steps), (result.loss, *result.losses)),
        ),
        chart(
            "gradient",
            "Change of the gradient",
            "change of the gradient (ℓ2)",
            "How far the gradient after a step is from the gradient before it. Low means that a step stays right.",
            lambda result: ((0.0, *result.steps), (0.0, *result.gradient_changes)),
        ),
        chart(
            "beta",
            "Effective β",
            "change of the gradient per distance",
            "The change of the gradient divided by the length of the step. Its largest value is the effective β.",
            lambda result: (result.steps, result.betas),
        ),
    )


def _row(name: str, result: Smoothness) -> tuple[str, ...]:
    values = (
        result.loss_range,
        result.gradient_predictiveness,
        result.beta,
        result.loss,
        result.gradient_norm,
    )
    return (name, *map(number, values))
