import math
from itertools import combinations

import numpy as np
import plotly.graph_objects as go
import pytest
from tests.report import samples

from normsmith.report import palette
from normsmith.report.forest import forest_figures
from normsmith.report.plots import chart_figure, line_style
from normsmith.studies.results import Chart, Line, Verdict


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


def test_effects_of_other_units_get_figures_of_their_own():
    ratio, points = forest_figures(samples.placement().effects)
    assert ratio.columns == ("seed", "sigmoid: after is faster", "relu: before is faster")
    assert points.columns == ("seed", "tanh: same accuracy")
    assert len(ratio.rows) == len(samples.SEEDS)


def test_the_forest_shows_every_seed_the_interval_and_the_margins():
    effects = samples.placement().effects
    _, points = forest_figures(effects)
    seeds, interval, estimate = points.spec["data"]
    assert seeds["x"] == pytest.approx(list(effects[2].values), rel=1e-5)
    assert interval["x"] == pytest.approx([effects[2].low, effects[2].high], rel=1e-5)
    assert estimate["x"] == pytest.approx([effects[2].estimate], rel=1e-5)
    at = {shape["x0"] for shape in points.spec["layout"]["shapes"] if shape["type"] == "line"}
    assert at == {-1.0, 0.0, 1.0}
    low, high = points.spec["layout"]["xaxis"]["range"]
    assert low < -1 < 1 < high


def test_ratios_are_as_measured_so_a_claim_of_fewer_points_left():
    effect = samples.fewer_steps().effects[0]
    for better, sign, side in (("lower", -1, "left"), ("higher", 1, "right")):
        (figure,) = forest_figures([effect.model_copy(update={"better": better})])
        assert figure.spec["data"][2]["x"] == pytest.approx([sign * effect.estimate], rel=1e-5)
        assert f"farther {side}" in figure.spec["layout"]["xaxis"]["title"]["text"]
    assert len(forest_figures([effect, effect.model_copy(update={"better": "higher"})])) == 2


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


def _linear(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def _contrast(one, other):
    light, dark = sorted((_linear(c) @ (0.2126, 0.7152, 0.0722) for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", palette.PALETTES.values(), ids=palette.PALETTES)
def test_text_and_lines_stand_out_from_the_page(colours):
    words = ["ink", "muted", "accent", *palette.VERDICT_COLOURS.values()]
    assert {name: _contrast(colours[name], colours["paper"]) >= 4.5 for name in words} == dict.fromkeys(
        words, True
    )
    lines = [f"series-{i}" for i in range(palette.SERIES)]
    assert {name: _contrast(colours[name], colours["paper"]) >= 3 for name in lines} == dict.fromkeys(
        lines, True
    )


# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
_DEFICIENCIES = {
    "none": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def _lab(linear):
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("matrix", _DEFICIENCIES.values(), ids=_DEFICIENCIES)
@pytest.mark.parametrize("colours", palette.PALETTES.values(), ids=palette.PALETTES)
def test_the_first_four_lines_differ_in_colour_for_every_eye(colours, matrix):
    seen = [_lab(np.array(matrix) @ _linear(colours[f"series-{i}"])) for i in range(4)]
    nearest = min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2))
    assert nearest > 10  # four times a difference that is just noticed


def test_each_verdict_has_a_colour():
    assert set(palette.VERDICT_COLOURS) == set(Verdict)
