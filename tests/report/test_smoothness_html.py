"""The page of smoothness: its numbers, its pictures, and that names stay text."""

import math
import re

import pytest

from normsmith.errors import InputError
from normsmith.measure import Smoothness
from normsmith.report import smoothness_to_html
from normsmith.report.smoothness_html import smoothness_charts

ROUGH = Smoothness((0.5, 1.0), 2.0, 4.0, (1.5, 3.5), (6.0, 10.0))
SMOOTH = Smoothness((0.5, 1.0), 2.0, 1.0, (1.75, 1.5), (0.1, 0.2))


def test_the_numbers_of_each_are_in_the_table():
    page = smoothness_to_html({"no norm": ROUGH, "batch norm": SMOOTH})
    rows = re.findall(r'<th scope="row"[^>]*>(.*?)</th>(.*?)</tr>', page)
    cells = {name: re.findall(r"<td[^>]*>(.*?)</td>", rest) for name, rest in rows[:2]}
    assert cells == {"no norm": ["2", "10", "3", "2", "4"], "batch norm": ["0.25", "0.2", "0.2", "2", "1"]}


def test_curves_begin_at_the_iterate():
    loss, gradient, beta = smoothness_charts({"no norm": ROUGH})
    assert (loss.lines[0].x, loss.lines[0].y) == ((0.0, 0.5, 1.0), (2.0, 1.5, 3.5))
    assert (gradient.lines[0].x, gradient.lines[0].y) == ((0.0, 0.5, 1.0), (0.0, 6.0, 10.0))
    assert (beta.lines[0].x, beta.lines[0].y) == ((0.5, 1.0), (3.0, 2.5))


def test_the_page_is_safe_and_the_same_each_time():
    measured = {"<img src=x>": ROUGH}
    page = smoothness_to_html(measured)
    assert page == smoothness_to_html(measured)
    assert "<img" not in page
    assert page.count("<figure") == 3
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_values_that_overflowed_are_said():
    broken = Smoothness((0.5, 1.0), 2.0, 4.0, (1.5, math.inf), (6.0, math.inf))
    assert "∞" in smoothness_to_html({"diverging": broken})


def test_nothing_makes_no_page():
    with pytest.raises(InputError, match="at least one measurement"):
        smoothness_to_html({})
