import math

import plotly.graph_objects as go
import pytest
from tests.report import samples

from normsmith.report import palette
from normsmith.report.forest import forest_figures
from normsmith.report.plots import chart_figure, line_style
from normsmith.studies.results import Chart, Line


def painted(node, colours):
    """A figure as the page's script paints it."""
    if isinstance(node, list):
        return [painted(item, colours) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: colours[value] if key.endswith("color") and isinstance(value, str) else painted(value, colours)
        for key, value in node.items()
    }


def figures(result):
    for answer in result.answers:
        yield from forest_figures(answer.effects)
        yield from (chart_figure(chart) for chart in answer.charts)


@pytest.mark.parametrize("make", [samples.ordinary, samples.nasty, samples.one_seed])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_plotly_knows_every_property_and_every_colour_has_a_name(make, scheme):
    drawn = [go.Figure(painted(figure.spec, palette.PALETTES[scheme])) for figure in figures(make())]
    assert drawn
    assert all(figure.data for figure in drawn)


def test_a_gap_stays_a_gap_in_line_band_and_table():
    line = Line(
        label="arm",
        x=(1.0, 2.0, 3.0, 4.0, 5.0),
        y=(0.1, 0.2, None, 0.4, 0.5),
        low=(0.0, 0.1, None, 0.3, 0.4),
        high=(0.2, 0.3, None, 0.5, 0.6),
        marked=(2.0, 3.0),
    )
    chart = Chart(name="c", title="c", x_title="x", y_title="y", lines=(line,), description="d")
    figure = chart_figure(chart)
    band, drawn, ring = figure.spec["data"]
    assert drawn["y"] == [0.1, 0.2, None, 0.4, 0.5]
    assert not drawn["connectgaps"]
    assert band["y"].count(None) == 2  # two closed outlines
    assert ring["x"] == [2.0]  # there is nothing to point at in the gap
    assert [row[1] for row in figure.rows][1:3] == ["0.2 (0.1 to 0.3)", "–"]


def test_what_has_no_logarithm_is_left_out_of_a_log_axis():
    line = Line(label="arm", x=(0.0, 1.0, 2.0), y=(1.0, -1.0, math.nan), low=(0.5, 0.5, 0.5), high=(2.0,) * 3)
    chart = Chart(
        name="c",
        title="c",
        x_title="x",
        y_title="y",
        log_x=True,
        log_y=True,
        lines=(line,),
        description="d",
    )
    drawn = next(trace for trace in chart_figure(chart).spec["data"] if trace.get("connectgaps") is False)
    assert (drawn["x"], drawn["y"]) == ([1.0, 2.0], [None, None])


def test_thirty_lines_are_told_apart_by_colour_and_dash():
    styles = {(line_style(i)["color"], line_style(i)["dash"]) for i in range(30)}
    assert len(styles) == 30
