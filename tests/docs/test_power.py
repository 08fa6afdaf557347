"""How often an effect is found, as the page on reports says."""

from __future__ import annotations

import re
from statistics import NormalDist

import pytest
from scipy import stats
from tests.docs.pages import DOCS

from normsmith.studies.statistics import pairs_needed

PAGE = (DOCS / "howto/read-a-report.md").read_text(encoding="utf-8")
ROWS = [
    tuple(map(float, row))
    for row in re.findall(r"^\| ([\d.]+) \| (\d+) % \| (\d+) % \|$", PAGE, re.MULTILINE)
]


def power(effect: float, seeds: int, hypotheses: int) -> float:
    """Per cent of studies in which enough pairs lie beyond the margin for the hardest step of Holm's."""
    needed = pairs_needed(seeds, hypotheses)
    return 100 * float(stats.binom.sf(needed - 1, seeds, NormalDist().cdf(effect)))


def test_there_is_a_table() -> None:
    assert len(ROWS) == 4


@pytest.mark.parametrize(("effect", "ten", "twenty"), ROWS)
def test_the_table_is_what_the_tests_give(effect: float, ten: float, twenty: float) -> None:
    assert power(effect, 10, 2) == pytest.approx(ten, abs=0.51)
    assert power(effect, 20, 3) == pytest.approx(twenty, abs=0.51)
