"""Strip charts: a point a seed, stacked where they chose the same, told apart by what else they chose."""

import re

from tests.report import samples

from normsmith.report.strips import strip_figure
from normsmith.studies.results import Strip, StripChart


def drawn(*rows, log_x=True):
    return strip_figure(
        StripChart(name="s", title="s", x_title="rate", log_x=log_x, rows=rows, description="d")
    )


def marks(panel):
    return re.findall(r'href="#mark-([\w-]+)" x="([\d.]+)%" y="([\d.]+)" class="([\w-]+)"', panel.drawing)


def test_every_seed_is_a_point_and_those_at_one_place_are_stacked():
    figure = drawn(Strip(label="arm", x=(0.25, 0.5, 0.25, 0.25)))
    row, axis = figure.panels
    places = [(float(x), float(y)) for _, x, y, _ in marks(row)]
    assert len(set(places)) == 4
    assert len({x for x, _ in places}) == 2
    assert row.note == "0.25 (3), 0.5 (1)"
    assert "0.25" in axis.drawing
    assert figure.rows == (("arm", "0.25", "3"), ("arm", "0.5", "1"))


def test_what_else_was_chosen_is_colour_shape_key_and_column():
    figure = drawn(Strip(label="arm", x=(0.25, 0.25, 0.5), kinds=("own", "He", "own")))
    assert {(symbol, colour) for symbol, _, _, colour in marks(figure.panels[0])} == {
        ("circle", "series-0"),
        ("square", "series-1"),
    }
    assert [entry.label for entry in figure.key] == ["own", "He"]
    assert figure.columns == ("arm", "rate", "kind", "seeds")
    assert ("arm", "0.25", "He", "1") in figure.rows


def test_arms_share_one_axis():
    figure = strip_figure(samples.choices())
    assert [panel.label for panel in figure.panels] == ["tanh, none", "tanh, bn", "relu, none", ""]
    places = [{x for _, x, _, _ in marks(panel)} for panel in figure.panels[:3]]
    assert max(map(float, places[0])) < min(map(float, places[1]))
    assert figure.panels[2].note == exact_once()


def exact_once():
    """All seeds of the third arm chose one rate."""
    return "0.03125"


def test_many_seeds_at_one_place_keep_the_row_low():
    (row, _) = drawn(Strip(label="arm", x=(1.0,) * 200)).panels
    assert len(marks(row)) == 200
    assert int(re.search(r'height="(\d+)"', row.drawing)[1]) < 100


def test_what_has_no_place_on_the_axis_is_in_the_table_alone():
    figure = drawn(Strip(label="arm", x=(0.0, 1.0)))
    assert len(marks(figure.panels[0])) == 1
    assert ("arm", "0", "1") in figure.rows


def test_many_values_are_said_by_their_middle_and_their_ends():
    figure = drawn(Strip(label="arm", x=tuple(float(x) for x in range(1, 10))), log_x=False)
    assert figure.panels[0].note == "median 5, from 1 to 9"


def test_a_point_for_each_kind_is_said_with_its_kind():
    figure = drawn(Strip(label="arm", x=(0.25, 0.5), kinds=("own", "He")))
    assert figure.panels[0].note == "own 0.25, He 0.5"
