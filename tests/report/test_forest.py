"""Forest plots: every seed, the interval, the margin, and the side on which the claim lies."""

import pytest
from tests.report import samples

from normsmith.report.forest import forest_figures
from normsmith.studies import notation


def test_effects_of_other_units_get_figures_of_their_own():
    ratio, points = forest_figures(samples.placement().effects)
    assert ratio.columns == ("seed", "sigmoid: after is faster", "relu: before is faster")
    assert points.columns == ("seed", "tanh: same accuracy")
    assert len(ratio.rows) == len(samples.SEEDS)


def test_the_forest_shows_every_seed_the_interval_and_the_margins():
    effects = samples.placement().effects
    _, points = forest_figures(effects)
    seeds, interval, estimate = points.spec["data"]
    shown = [notation.position(effects[2], low) for low, _ in effects[2].effects]
    assert seeds["x"] == pytest.approx(shown, rel=1e-5)
    ends = sorted(notation.position(effects[2], end) for end in effects[2].interval)
    assert interval["x"] == pytest.approx(ends, rel=1e-5)
    assert estimate["x"] == pytest.approx([notation.position(effects[2], effects[2].median.low)], rel=1e-5)
    at = {shape["x0"] for shape in points.spec["layout"]["shapes"] if shape["type"] == "line"}
    assert at == {-1.0, 0.0, 1.0}
    low, high = points.spec["layout"]["xaxis"]["range"]
    assert low < -1 < 1 < high


def test_effects_are_as_measured_so_a_claim_of_fewer_points_left():
    effect = samples.fewer_steps().effects[0]
    for better, sign, side in (("lower", -1, "left"), ("higher", 1, "right")):
        (figure,) = forest_figures([effect.model_copy(update={"better": better})])
        assert figure.spec["data"][2]["x"] == pytest.approx([sign * effect.median.low], rel=1e-5)
        assert f"farther {side}" in figure.spec["layout"]["xaxis"]["title"]["text"]
    assert len(forest_figures([effect, effect.model_copy(update={"better": "higher"})])) == 2


def test_what_censoring_leaves_open_is_drawn_open():
    """Two of eight effects are at least so large, and so is the interval: fewer steps lie to the left."""
    (figure,) = forest_figures([samples.fewer_steps().effects[1]])
    seeds, interval, arrows, _ = figure.spec["data"]
    assert seeds["marker"]["symbol"] == ["triangle-left"] * 2 + ["circle"] * 6
    assert arrows["marker"]["symbol"] == ["triangle-left"]
    left, _ = figure.spec["layout"]["xaxis"]["range"]
    assert interval["x"][0] == arrows["x"][0] == pytest.approx(left, rel=1e-5)
    assert "triangles: so far at least" in figure.spec["layout"]["xaxis"]["title"]["text"]
    assert "at most" in dict(figure.rows)["0"]
