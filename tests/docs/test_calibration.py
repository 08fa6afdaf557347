"""Studies of arms that are the same, tuned and trained twice: what is kept of them, and what the page says."""

from __future__ import annotations

import json
import runpy

import numpy as np
import pytest
from scipy.stats import binomtest
from tests.docs.pages import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts/calibrate.py"))
KEPT = json.loads((ROOT / "docs/calibration.json").read_text(encoding="utf-8"))
LEVEL = 0.05


def test_the_page_says_what_came_out() -> None:
    text = (ROOT / "docs/explanation/fairness.md").read_text(encoding="utf-8")
    assert SCRIPT["with_table"](text, KEPT) == text, "write it anew: make calibrate"


@pytest.mark.parametrize("question", KEPT["questions"])
def test_disjoint_studies_are_wrong_no_more_often_than_they_may(question: str) -> None:
    alone = KEPT["questions"][question]["disjoint"]
    assert alone["studies"] >= 6
    assert binomtest(alone["false"], alone["studies"], LEVEL, "greater").pvalue > LEVEL
    assert binomtest(alone["covering"], alone["studies"], 1 - LEVEL, "less").pvalue > LEVEL


@pytest.mark.parametrize("question", KEPT["questions"])
def test_the_counts_are_those_of_the_kept_effects(question: str) -> None:
    each = KEPT["questions"][question]
    effects = [[float(end) for end in pair] for pair in each["effects"]]
    assert SCRIPT["counted"](effects) == {**each, "effects": effects}
    assert len({tuple(pair) for pair in effects}) > 1  # training differs


def test_studies_with_a_true_effect_are_seen_to_be_called() -> None:
    """The count can fail: effects that all lie to one side are called nearly always."""
    random = np.random.default_rng(0)
    pairs = np.repeat(random.normal(2.0, 1.0, (60, 1)), 2, axis=1)
    said = SCRIPT["counted"](pairs.tolist())["disjoint"]
    assert said["false"] >= 5
    assert said["covering"] <= 1
