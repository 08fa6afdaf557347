"""The picture of all hypotheses: one axis, the margin at one place, the claim to the right."""

import math
import re

from tests.report import samples

from normsmith.report.overview import overview, overview_key
from normsmith.studies.statistics import Interval


def place(row, class_):
    """Where the only line, or the estimate, of a row is."""
    found = re.findall(rf'x1="([-\d.]+)%"[^>]* class="{class_}"', row.drawing)
    return [float(x) for x in found]


def estimate(row):
    return float(
        re.search(r'<use href="#mark-[\w-]+" x="([-\d.]+)%" y="15" class="[\w-]+"><title>', row.drawing)[1]
    )


def test_every_hypothesis_has_a_row_and_all_superiority_margins_lie_at_one_place():
    result = samples.ordinary()
    shown = overview(result)
    assert [[row.effect for row in rows] for rows in shown.questions] == [
        list(answer.effects) for answer in result.answers
    ]
    rows = [row for rows in shown.questions for row in rows]
    margins = {x for row in rows if row.effect.kind == "superiority" for x in place(row, "margin")}
    assert len(margins) == 1
    assert len({x for row in rows for x in place(row, "zero")}) == 1
    assert all(len(place(row, "margin")) == 2 for row in rows if row.effect.kind == "equivalence")


def test_what_speaks_for_a_claim_lies_to_the_right_of_its_margin_whichever_way_its_quantity_goes():
    lower, _, short = samples.fewer_steps().effects
    higher = samples.learning_rates().effects[0]
    (rows,) = overview(
        samples.study(samples.fewer_steps().model_copy(update={"effects": (lower, higher, short)}))
    ).questions
    for row in rows[:2]:
        assert estimate(row) > place(row, "margin")[0] > place(row, "zero")[0]
    assert estimate(rows[2]) < place(rows[2], "margin")[0]


def test_open_ends_and_effects_a_million_margins_large_stay_inside():
    effect = samples.fewer_steps().effects[0]
    wild = effect.model_copy(update={"median": Interval(1e300, 1e300), "interval": Interval(1.0, math.inf)})
    unknown = effect.model_copy(
        update={"median": Interval(-math.inf, math.inf), "interval": Interval(-math.inf, math.inf)}
    )
    answer = samples.fewer_steps().model_copy(update={"effects": (wild, unknown)})
    (rows,) = overview(samples.study(answer)).questions
    assert 0 < estimate(rows[0]) < 100
    assert estimate(rows[1]) == place(rows[1], "zero")[0]
    assert rows[1].drawing.count("triangle") == 2


def test_the_key_names_what_the_rows_do_not_say():
    labels = [entry.label for entry in overview_key(samples.ordinary())]
    assert labels == ["estimate, 95 % interval", "margin, and the side of the claim", "no effect"]


def test_nothing_to_show_is_shown_as_nothing():
    assert overview(samples.empty()).questions == ()
