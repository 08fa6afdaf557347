"""Forest plots: every seed, the interval, the margin, and the side on which the claim lies."""

import re

import pytest
from tests.report import samples

from normsmith.report.forest import forest_figures
from normsmith.studies.statistics import Interval


def lines(panel, class_):
    """The ends of the lines of a class, in percent."""
    found = re.findall(rf'<line x1="([-\d.]+)%" x2="([-\d.]+)%"[^>]* class="{class_}', panel.drawing)
    return [(float(x1), float(x2)) for x1, x2 in found]


def marks(panel):
    """Symbols with their places, those of the seeds before that of the estimate."""
    found = re.findall(r'href="#mark-([\w-]+)" x="([-\d.]+)%" y="(\d+)"', panel.drawing)
    return [(symbol, float(x), int(y)) for symbol, x, y in found]


def test_effects_of_other_units_get_figures_of_their_own():
    ratio, points = forest_figures(samples.placement().effects)
    assert ratio.columns == ("seed", "sigmoid: after is faster", "relu: before is faster")
    assert points.columns == ("seed", "tanh: same accuracy")
    assert len(ratio.rows) == len(samples.SEEDS)
    assert [panel.label for panel in ratio.panels] == [*ratio.columns[1:], ""]


def test_the_forest_shows_every_seed_the_interval_and_the_margins():
    """Places on the axis are checked against the places of 0 and of the margins, which are known."""
    effect = samples.placement().effects[2]
    _, points = forest_figures([samples.placement().effects[0], effect])
    row = points.panels[0]
    ((zero, _),), (left, right) = lines(row, "zero"), [x for x, _ in lines(row, "margin")]
    assert zero == pytest.approx((left + right) / 2, abs=1e-2)
    scale = (right - left) / 2  # percent of a point: the margin is one

    def place(value):
        return pytest.approx(zero + scale * value, abs=1e-2)

    *seeds, (symbol, middle, _) = marks(row)
    assert [x for _, x, _ in seeds] == [place(low) for low, _ in effect.effects]
    assert (symbol, middle) == ("holds", place(effect.median.low))
    assert lines(row, "interval") == [(place(effect.interval.low), place(effect.interval.high))]
    assert 0 < left < right < 100


def test_effects_are_as_measured_so_a_claim_of_fewer_points_left():
    effect = samples.fewer_steps().effects[0]
    for better, sign, side in (("lower", -1, "left"), ("higher", 1, "right")):
        (figure,) = forest_figures([effect.model_copy(update={"better": better})])
        ((zero, _),), (*_, (_, middle, _)) = lines(figure.panels[0], "zero"), marks(figure.panels[0])
        assert sign * (middle - zero) > 0
        assert f"farther {side}" in figure.x_title
    assert len(forest_figures([effect, effect.model_copy(update={"better": "higher"})])) == 2


def test_what_censoring_leaves_open_is_drawn_open():
    """Two of eight effects are at least so large, and so is the interval: fewer steps lie to the left."""
    (figure,) = forest_figures([samples.fewer_steps().effects[1]])
    row = figure.panels[0]
    symbols = [symbol for symbol, _, _ in marks(row)]
    assert symbols == ["triangle-left"] * 2 + ["circle"] * 6 + ["triangle-left", "holds"]
    ((left, _),) = lines(row, "interval")
    assert left == marks(row)[-2][1] == 0
    assert "triangles: a seed whose effect is at least so large" in figure.x_title
    assert "at most" in dict(figure.rows)["0"]


def test_the_key_has_the_colours_and_shapes_of_the_verdicts_that_are_there():
    (ratio, _) = forest_figures(samples.placement().effects)
    assert [entry.label for entry in ratio.key[-2:]] == ["holds", "reversed"]
    assert [entry.symbol for entry in ratio.key[-2:]] == ["holds", "reversed"]


def test_seeds_at_one_place_stand_below_each_other_and_the_row_grows():
    effect = samples.fewer_steps().effects[0]
    flat = effect.model_copy(update={"effects": (Interval(0.5, 0.5),) * len(effect.seeds)})
    (spread,), (stacked,) = forest_figures([effect]), forest_figures([flat])
    heights = [int(re.search(r'height="(\d+)"', each.panels[0].drawing)[1]) for each in (spread, stacked)]
    assert heights[1] > heights[0]
    assert len({y for _, _, y in marks(stacked.panels[0])[:-1]}) == len(effect.seeds)


def test_small_effects_are_not_pressed_flat_by_large_ones():
    effect = samples.placement().effects[2].model_copy(update={"kind": "superiority"})
    large = effect.model_copy(
        update={
            "name": "large",
            "effects": tuple(Interval(low + 42, high + 42) for low, high in effect.effects),
        }
    )
    small, big = forest_figures([effect, large])
    assert (small.columns[1], big.columns[1]) == (effect.name, "large")
    assert [each.title for each in (small, big)] == [f"Paired effects: points ({i} of 2)" for i in (1, 2)]


def test_an_equivalence_has_its_claim_near_no_effect_and_a_figure_of_its_own():
    equal = samples.placement().effects[2]
    other = equal.model_copy(update={"kind": "superiority", "name": "other"})
    assert equal.kind == "equivalence"
    near, far = forest_figures([equal, other])
    assert "nearer to 0: more as claimed" in near.x_title
    assert "farther right: more as claimed" in far.x_title


def test_what_is_said_in_place_of_a_verdict_stands_in_key_and_description() -> None:
    effect = samples.fewer_steps().effects[0]
    (plain,), (other,) = forest_figures([effect]), forest_figures([effect], {effect.name: "not to be shown"})
    assert plain.key[-1].label == effect.verdict.value
    assert f": {effect.verdict.value}<" in plain.panels[0].drawing
    assert other.key[-1].label == "not to be shown"
    assert other.description.endswith(", not to be shown.")
    assert ": not to be shown<" in other.panels[0].drawing
