"""Charts, tables and notes of what trials measured, those that went wrong included."""

import math

import pytest
from tests.studies.outcomes import AT, DIVERGED, at, lab

from normsmith.studies.arms import AS_IS
from normsmith.studies.figures import (
    arms_table,
    band,
    ceiling_notes,
    chosen_settings,
    edge_notes,
    headline,
    middle,
    probe,
    rate_response,
    response,
    target_note,
    training_curves,
    unreached,
)
from normsmith.studies.initial_weights import initialised
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.trial import Outcome, Trial
from normsmith.studies.tuning import Setting, Tuned


def test_charts_show_what_is_finite():
    line = band("arm", {1.0: [0.5, -math.inf], 2.0: [math.inf]})
    assert line.y == (0.5, None)


def test_curves_are_drawn_by_step_where_one_starts_later():
    whole = Outcome("finished", steps=(0, 20), test=(0.2, 0.8))
    late = Outcome("finished", steps=(20,), test=(0.6,))
    (line,) = training_curves(lab(late, whole), [AT]).lines
    assert (line.x, line.y) == ((0.0, 20.0), (0.2, pytest.approx(0.7)))


def test_a_probe_that_never_ran_has_the_value_that_is_said():
    assert probe("flat", missing=1.0)(DIVERGED) == (1.0, False)
    seen = Outcome("finished", probes={"flat": (0.1, 0.3)})
    assert probe("flat", missing=1.0)(seen) == (0.3, False)
    assert middle(lab(DIVERGED, seen), AT, probe("flat")) == "0.3"
    assert middle(lab(DIVERGED), AT, probe("flat")) == "–"


def test_a_median_of_which_more_than_half_is_censored_is_never():
    reached, never = (
        Outcome("finished", steps=(0, 5, 10), test=(0.0, 0.9, 0.9)),
        Outcome("finished", steps=(0,), test=(0.0,)),
    )
    some, most = lab(reached, reached, never), lab(reached, never, never)
    assert middle(some, AT, some.steps_to(0.5)) == "5 (1 never)"
    assert middle(most, AT, most.steps_to(0.5)) == "never"


def test_the_table_counts_divergence_and_shows_what_seeds_chose_and_the_worst():
    fine, worse = Outcome("finished", test=(0.2, 0.75)), Outcome("finished", test=(0.2, 0.5))
    read = lab(fine, worse, DIVERGED, Outcome("raised"))
    table = arms_table(read, [AT], {"again": read.final})
    columns = ("arm", "rate", "weights", "test metric", "worst seed", "mean ± SD", "again", "diverged")
    assert table.columns == columns
    (row,) = table.rows
    assert row[:4] == (
        "as is",
        "0.1",
        "own",
        "0.5",
    )  # one that diverged before it was measured is the worst there is
    assert row[-2:] == ("0.5", "1 of 3")  # what raised says nothing
    (row,) = arms_table(lab(fine, worse), [at(0.1, 0.1)]).rows
    assert row[4:6] == ("0.5", "0.625 ± 0.18")


def test_the_table_gives_the_range_of_the_rates_and_the_weights_of_the_seeds():
    chosen = {0: Setting(AS_IS, 0.1), 1: Setting(initialised(AS_IS), 0.4), 2: Setting(AS_IS, 0.2)}
    (row,) = arms_table(lab(), [Tuned(AS_IS, chosen)]).rows
    assert row[1:3] == ("0.2 (0.1–0.4)", "own 2, by activation 1")


def test_a_note_says_at_which_limit_the_best_rate_lies_and_for_how_many_seeds():
    notes = edge_notes(
        [at(0.1, 0.2, 0.1, limits=(0.1, 0.4)), at(0.4, limits=(0.1, 0.4)), at(0.2, limits=(0.1, 0.4))]
    )
    assert [("smallest" in note, "largest" in note) for note in notes] == [(True, False), (False, True)]
    assert notes[0].startswith("For 2 of 3 seeds")


def test_the_response_to_rates_is_that_of_the_split_they_are_tuned_on():
    outcomes = [Outcome("finished", validation=(0.2, value), test=(0.0, 0.0)) for value in (0.5, 0.75)]
    (line,) = rate_response(lab(*outcomes), [at(0.1, 0.1)]).lines
    assert (line.x, line.y) == ((0.1,), (0.625,))


def test_a_seed_responds_with_the_better_of_its_initial_weights():
    good = initialised(AS_IS)
    tuned = Tuned(AS_IS, {0: Setting(AS_IS, 0.1)}, {0: (Setting(AS_IS, 0.1), Setting(good, 0.1))})
    read = lab(Outcome("finished", validation=(0.3,)))
    read.outcomes[Trial(good, 0.1, 0, 20)] = Outcome("finished", validation=(0.6,))
    (line,) = rate_response(read, [tuned]).lines
    assert line.y == (0.6,)


def test_a_response_has_a_line_for_each_label_and_a_point_for_each_value():
    outcomes = [Outcome("finished", test=(0.2, value)) for value in (0.5, 0.75)]
    chart = response(
        lab(*outcomes), {"arm": {2.0: at(0.1, 0.1), 1.0: at(0.3)}}, name="x", title="X", to="gain"
    )
    (line,) = chart.lines
    assert (line.label, line.x, line.y) == ("arm", (1.0, 2.0), (None, 0.625))
    assert (chart.x_title, chart.y_title, chart.log_x) == ("gain", "final test accuracy", True)


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [((3.0, 0.02), True), ((3.0, 0.4), False), ((0.97, 0.001), False), ((3.0, 0.0), False)],
)
def test_losses_that_span_decades_are_drawn_on_a_logarithmic_axis_and_shares_are_not(values, logarithmic):
    told = lab(Outcome("finished"))
    told.outcomes = {
        Trial(AS_IS, rate, 0, 20): Outcome("finished", test=(0.1, value))
        for rate, value in enumerate(values, start=1)
    }
    lines = {"line": {rate: at(rate) for rate in (1, 2)}}
    assert response(told, lines, name="sweep", title="Sweep", to="rate").log_y is logarithmic


def test_what_seeds_chose_is_a_strip_for_each_arm():
    chosen = {0: Setting(AS_IS, 0.1), 1: Setting(initialised(AS_IS), 0.4)}
    (row,) = chosen_settings([Tuned(AS_IS, chosen)]).rows
    assert (row.x, row.kinds) == ((0.1, 0.4), ("own", "by activation"))


def test_a_target_is_said_with_where_it_comes_from():
    assert target_note(lab(), 0.8).startswith("Target: test metric 0.8, held")
    assert (
        target_note(lab(), 0.8, at_end=True) == "Target: test metric 0.8, reached at the end of the budget."
    )
    assert "97 % of the way" in target_note(lab(target=None), 0.8)


def test_a_target_that_no_arm_reaches_is_said():
    outcomes = [Outcome("finished", steps=(0, 10, 20), test=(0.2, value, value)) for value in (0.5, 0.9)]
    read = lab(*outcomes)
    (said,) = unreached(read, 0.95, [AT])
    assert "more steps" in said
    assert unreached(read, 0.8, [AT]) == ()


def a_pair(control, **claim):
    words = {"unit": "points", "scale": "difference", "better": "higher", **claim}
    hypothesis = Hypothesis("metric", "it is better", "one", "other", margin=5.0, **words)
    return Pairs(hypothesis, (0, 1, 2), (98.0, 98.0, 99.0), control)


def test_a_control_without_room_above_it_is_a_ceiling():
    (note,) = ceiling_notes(lab(), [a_pair((96.0, 97.0, 90.0))])
    assert "“other” is at 96 of 100 points" in note
    assert "More than 4 points above it were not possible, which is less than is claimed" in note


@pytest.mark.parametrize(
    "pair",
    [
        a_pair((90.0, 96.0, 80.0)),
        a_pair((96.0, 97.0, 90.0), better="lower"),
        a_pair((96.0, 97.0, 90.0), unit="steps"),
        a_pair((960.0, 970.0, 900.0)),  # no share
    ],
    ids=["room", "lower is better", "steps", "no share"],
)
def test_where_there_is_room_or_no_known_end_there_is_no_ceiling(pair):
    assert ceiling_notes(lab(), [pair]) == ()


def test_a_headline_gathers_effects_by_verdict():
    from tests.report import samples

    effects = samples.placement().effects
    text = headline("It matters", effects)
    assert text.startswith("It matters: ")
    assert all(effect.name in text for effect in effects)
    assert text.count("holds (") == 1
