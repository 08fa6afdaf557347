"""The picture of where the gap between training and evaluation comes from."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from tests.report import samples

from normsmith.report.gap import gap_figure

FINDING = samples.findings().found[0]


def values(mean, spread=0.01):
    return {"loss": {"mean": mean, "spread": spread, "batches": [mean]}}


def step(layers, in_order, alone, back):
    return {
        "layers": layers,
        "in_order": values(in_order),
        "alone": values(alone),
        "reversed": values(back),
    }


EVIDENCE = {
    "training": values(0.3),
    "evaluation": values(1.0),
    "dropout_off": values(-0.1),
    "steps": [step(["a"], 0.2, 0.2, 0.7), step(["b", "c", "d", "e"], 0.6, 0.1, 0.1)],
}


def drawn(evidence):
    return gap_figure(replace(FINDING, evidence=evidence))


def bar(panel):
    """Left edge and width of a panel's bar, as shares of the width in %."""
    rectangle = re.search("<rect[^>]*>", panel.drawing).group()
    return [float(re.search(rf' {side}="([0-9.]+)%', rectangle).group(1)) for side in ("x", "width")]


def test_each_step_begins_where_the_one_before_ended_and_the_last_ends_in_evaluation():
    figure = drawn(EVIDENCE)
    assert [panel.label for panel in figure.panels] == ["dropout off", "a", "b, c, d and 1 more", ""]
    assert [panel.note for panel in figure.panels[:3]] == ["−0.1", "+0.2", "+0.6"]
    (left, width), (second, second_width), (third, third_width) = map(bar, figure.panels[:3])
    assert math.isclose(
        second, left, abs_tol=0.01
    )  # dropout took away, so that its bar ends at its left edge
    assert math.isclose(third, second + second_width, abs_tol=0.01)
    assert math.isclose(second_width, 2 * width, rel_tol=0.01)
    assert math.isclose(third_width, 6 * width, rel_tol=0.01)
    assert [row[1] for row in figure.rows] == ["0.2", "0.4", "1"]


def test_what_does_not_add_up_is_named_so():
    figure = drawn(EVIDENCE)
    assert [entry.label for entry in figure.key if "does not add up" in entry.label] == [
        "alone (does not add up)",
        "in reverse order (does not add up)",
    ]
    assert figure.rows[1][4:] == ("0.2", "0.7")
    assert "#mark-diamond-open" in figure.panels[1].drawing


def test_a_metric_is_drawn_where_there_is_no_loss():
    metric = {"metric": {"mean": 0.5, "spread": None, "batches": [0.5]}}
    part = {"layers": ["a"], "in_order": metric, "alone": metric, "reversed": metric}
    figure = drawn({"evaluation": metric, "dropout_off": None, "steps": [part]})
    assert figure.title == "From training to evaluation: where the metric goes"
    assert figure.rows[0][3] == ""


def test_what_does_not_add_up_may_lie_beyond_the_axis():
    far = {**EVIDENCE, "steps": [step(["a"], 0.2, 0.2, 70.0), *EVIDENCE["steps"][1:]]}
    assert bar(drawn(far).panels[1]) == bar(drawn(EVIDENCE).panels[1])
    assert "#mark-diamond-open" not in drawn(far).panels[1].drawing
    assert drawn(far).rows[1][-1] == "70"


def test_a_network_without_dropout_has_no_step_for_it():
    assert drawn({**EVIDENCE, "dropout_off": values(0.0)}).panels[0].label == "a"


def test_there_is_no_picture_without_steps_or_of_what_is_not_finite():
    assert drawn({}) is None
    assert drawn({**EVIDENCE, "evaluation": values(math.inf)}) is None
