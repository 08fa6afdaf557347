"""Pictures of what a check measured."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.report import samples

from normsmith.checks import Proof
from normsmith.report.evidence import measured_figure, proof_figure

STALE = samples.findings().found[0]


def test_each_layer_is_drawn_at_what_was_measured():
    figure = measured_figure([STALE, replace(STALE, path="2", measured=0.4)])
    assert [panel.label for panel in figure.panels] == ["features.1", "2", ""]
    assert figure.rows == (("features.1", "3.2", "0.1"), ("2", "0.4", "0.1"))
    assert figure.title == "Shift, layer by layer"
    places = [float(panel.drawing.split('x="')[-1].split("%")[0]) for panel in figure.panels[:2]]
    assert places[0] > places[1]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_has_no_place_is_not_drawn(value):
    assert measured_figure([replace(STALE, measured=value)]) is None
    assert measured_figure([replace(STALE, threshold=value)]) is None


def test_many_layers_are_in_the_table_alone():
    figure = measured_figure([replace(STALE, path=str(i)) for i in range(40)])
    assert (len(figure.panels), len(figure.rows)) == (13, 40)


def test_a_fix_is_drawn_once_with_all_its_rules():
    other = replace(STALE, code="NS405")
    figure = proof_figure([STALE, other, replace(STALE, proof=None)])
    assert [panel.label for panel in figure.panels] == ["NS404, NS405", ""]
    assert figure.rows == (("NS404, NS405", STALE.fix.code, "0.92", "0.31"),)


@pytest.mark.parametrize("proof", [None, Proof(failed="why"), Proof((math.nan, 0.3))])
def test_without_numbers_there_is_no_picture(proof):
    assert proof_figure([replace(STALE, proof=proof)]) is None
