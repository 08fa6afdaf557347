"""Numbers, signs, durations and counts, at the edges where they read badly if nobody looks."""

import math

import pytest

from normsmith import _text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0012345, "−0.00123"),  # a true minus sign
        (999.9, "1,000"),  # rounding does not lead into exponents
        (1234567.0, "1,234,567"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "not a number"),
        (-0.0, "0"),  # no sign that means nothing
        (123456789.0, "1.23e+08"),
    ],
)
def test_numbers(value, text):
    assert _text.number(value) == text


def test_a_sign_is_always_there_but_at_zero():
    assert [_text.signed(value) for value in (1e-9, -1e-9, -0.0, math.inf)] == ["+1e−09", "−1e−09", "0", "+∞"]


@pytest.mark.parametrize(
    ("seconds", "measured", "estimated"),
    [
        (0.0, "0.0 s", "1 s"),
        (59.94, "59.9 s", "60 s"),
        (59.96, "1 min 0 s", "60 s"),  # never 60.0 s
        (99.4, "1 min 39 s", "99 s"),
        (99.6, "1 min 40 s", "2 min"),
        (3599.7, "1 h 0 min", "60 min"),
        (5400.0, "1 h 30 min", "1.5 h"),
    ],
)
def test_durations_change_their_unit_where_it_reads_better(seconds, measured, estimated):
    assert _text.duration(seconds) == measured
    assert _text.rough_duration(seconds) == estimated


def test_a_p_value_is_never_zero():
    assert (_text.p_value(0.0), _text.p_value(1e-4), _text.p_value(0.05)) == (
        "p < 0.0001",
        "p = 0.0001",
        "p = 0.05",
    )


def test_counts_group_thousands_and_nouns_have_their_plural():
    assert [_text.count(n, "class") for n in (0, 1, 2000)] == ["0 classes", "1 class", "2,000 classes"]


def test_ranges_are_sorted_and_single():
    assert _text.ranges([5, 3, 4, 3, 9]) == "3–5, 9"
    assert _text.ranges([]) == ""


def test_ends_that_are_one_number_are_said_once():
    assert (_text.interval(-0.5, 0.5), _text.interval(1e4, 1e4)) == ("−0.5 to 0.5", "10,000")


def test_a_moment_without_a_zone_has_none():
    assert _text.moment("2026-02-03T10:15:42") == "2026-02-03 10:15"


class UnprintableError(Exception):
    def __str__(self):
        raise SystemExit("no")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UnprintableError(), "UnprintableError: (its text cannot be shown: SystemExit)"),
        (
            ValueError("lone \ud800, nul \0"),
            "ValueError: lone \N{REPLACEMENT CHARACTER}, nul \N{REPLACEMENT CHARACTER}",
        ),
        (ValueError("expected:"), "ValueError: expected:"),
        (ValueError("  \n "), "ValueError"),
    ],
)
def test_errors_of_any_kind(error, text):
    assert _text.error_text(error) == text


def test_a_long_error_is_cut_and_says_so():
    said = _text.error_text(ValueError("x" * 10**6))
    assert len(said) < _text.LONGEST_REASON + 50
    assert said.endswith("… (cut: 1,000,012 characters in all)")
