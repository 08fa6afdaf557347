"""Charts, tables and notes of what trials measured, those that went wrong included."""

import math

import pytest
from tests.studies.outcomes import AT, DIVERGED, lab

from normsmith.studies.arms import AS_IS
from normsmith.studies.figures import (
    arms_table,
    band,
    edge_notes,
    headline,
    middle,
    probe,
    rate_response,
    training_curves,
)
from normsmith.studies.lab import Tuned
from normsmith.studies.trial import Outcome


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
        Outcome("finished", steps=(0, 5), test=(0.0, 0.9)),
        Outcome("finished", steps=(0,), test=(0.0,)),
    )
    some, most = lab(reached, reached, never), lab(reached, never, never)
    assert middle(some, AT, some.steps_to(0.5)) == "5 (1 never)"
    assert middle(most, AT, most.steps_to(0.5)) == "never"


def test_the_table_counts_divergence_and_marks_a_rate_on_the_edge_of_its_grid():
    fine = Outcome("finished", test=(0.2, 0.75))
    read = lab(fine, fine, DIVERGED, Outcome("raised"))
    table = arms_table(read, [Tuned(AS_IS, 0.1, (0.1, 0.2, 0.4))], {"again": read.final})
    assert table.columns == ("arm", "rate", "test metric", "again", "diverged")
    assert table.rows == (("as is", "0.1 (edge)", "0.75", "0.75", "1 of 3"),)  # what raised says nothing


def test_a_note_says_on_which_edge_the_best_rate_lies():
    tried = (0.1, 0.2, 0.4)
    notes = edge_notes([Tuned(AS_IS, rate, tried) for rate in tried])
    assert [("smallest" in note, "largest" in note) for note in notes] == [(True, False), (False, True)]


def test_the_response_to_rates_has_a_point_for_each_rate_tried():
    fine = Outcome("finished", test=(0.2, 0.75))
    (line,) = rate_response(lab(fine, fine), [Tuned(AS_IS, 0.1, (0.05, 0.1))]).lines
    assert (line.x, line.y) == ((0.05, 0.1), (None, 0.75))  # no trial ran at the other
    assert line.marked == (0.1,)


def test_a_headline_gathers_effects_by_verdict():
    from tests.report import samples

    effects = samples.placement().effects
    text = headline("It matters", effects)
    assert text.startswith("It matters: ")
    assert all(effect.name in text for effect in effects)
    assert text.count("holds (") == 1
