"""Charts: lines, bands and rings where the numbers are, and gaps where there are none."""

import math
import re

from tests.report import samples

from normsmith.report.plots import chart_figure, line_style
from normsmith.studies.results import Chart, Line


def chart(*lines, **options):
    return chart_figure(
        Chart(name="c", title="c", x_title="x", y_title="y", lines=lines, description="d", **options)
    )


def strokes(figure, class_):
    """The numbers of each stretch of the paths of a class."""
    (panel,) = figure.panels
    paths = re.findall(rf'<path d="([^"]*)" class="{class_}[^"]*">', panel.drawing)
    return [[re.findall(r"[\d.]+ -?[\d.]+", part) for part in path.split("M")[1:]] for path in paths]


def marks(figure, symbol):
    return re.findall(rf'href="#mark-{symbol}" x="([\d.]+)%" y="([\d.]+)"', figure.panels[0].drawing)


def test_a_gap_stays_a_gap_in_line_band_and_table():
    line = Line(
        label="arm",
        x=(1.0, 2.0, 3.0, 4.0, 5.0),
        y=(0.1, 0.2, None, 0.4, 0.5),
        low=(0.0, 0.1, None, 0.3, 0.4),
        high=(0.2, 0.3, None, 0.5, 0.6),
    )
    figure = chart(line)
    ((first, second),) = strokes(figure, "stroke")
    assert (len(first), len(second)) == (2, 2)
    ((left, right),) = strokes(figure, "band")
    assert (len(left), len(right)) == (4, 4)  # two closed outlines
    assert len(marks(figure, "circle")) == 4
    assert [row[1] for row in figure.rows][1:3] == ["0.2 (0.1 to 0.3)", "–"]


def test_a_higher_value_is_drawn_higher_and_a_larger_x_farther_right():
    figure = chart(Line(label="arm", x=(1.0, 2.0), y=(0.1, 0.9)))
    (x0, y0), (x1, y1) = [(float(x), float(y)) for x, y in marks(figure, "circle")]
    assert x0 < x1
    assert y0 > y1


def test_what_has_no_logarithm_is_left_out_of_a_log_axis():
    line = Line(label="arm", x=(0.0, 1.0, 2.0), y=(1.0, -1.0, math.nan), low=(0.5, 0.5, 0.5), high=(2.0,) * 3)
    figure = chart(line, log_x=True, log_y=True)
    assert marks(figure, "circle") == []
    assert strokes(figure, "stroke") == [[]]
    ((band,),) = strokes(figure, "band")
    assert len(band) == 4


def test_the_key_has_every_line():
    assert [entry.label for entry in chart_figure(samples.curves()).key] == [
        line.label for line in samples.curves().lines
    ]


def test_thirty_lines_are_told_apart_by_colour_and_dash():
    styles = {(line_style(i)["colour"], line_style(i)["dash"]) for i in range(30)}
    assert len(styles) == 30


def test_names_are_text_and_not_elements():
    drawn = chart_figure(samples.nasty().answers[0].charts[0]).panels[0].drawing
    assert "<img" not in drawn
    assert "&lt;img" in drawn


def test_accuracies_are_stretched_and_the_target_is_drawn_across_and_in_the_key():
    chart = Chart(
        name="c",
        title="c",
        x_title="x",
        y_title="accuracy",
        lines=(Line(label="a", x=(1.0, 2.0), y=(0.1, 0.97)),),
        description="d.",
    )
    plain, drawn = chart_figure(chart), chart_figure(chart, shares=True, target=0.95)
    assert [entry.label for entry in drawn.key] == ["a", "target 0.95"]
    assert 'class="margin"' in drawn.panels[0].drawing
    assert 'class="margin"' not in plain.panels[0].drawing
    assert (plain.y_title, drawn.y_title) == ("accuracy", "accuracy (the scale is stretched towards 1)")
    losses = chart.model_copy(update={"lines": (Line(label="a", x=(1.0,), y=(2.3,)),)})
    near = chart.model_copy(update={"lines": (Line(label="a", x=(1.0, 2.0), y=(0.96, 0.97)),)})
    assert {chart_figure(each, shares=True).y_title for each in (losses, near)} == {"accuracy"}
