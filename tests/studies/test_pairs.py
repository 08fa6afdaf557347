"""Paired arms: what is refused, and which effects their values amount to."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.studies.claims import BUDGET, POINTS, a_hypothesis, pairs_of

from normsmith.errors import StudyError
from normsmith.studies._pairs import Pairs


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e101])
def test_a_value_that_is_no_number_names_hypothesis_and_seed(bad):
    with pytest.raises(StudyError, match=r"'steps', seed 2: .* for the control, got"):
        Pairs(a_hypothesis(**POINTS, margin=1e-12), (0, 2), (1.0, 1.0), (1.0, bad))


def test_a_ratio_needs_positive_values():
    with pytest.raises(StudyError, match="seed 0: expected a number above 0"):
        Pairs(a_hypothesis(), (0,), (0.0,), (1.0,))


@pytest.mark.parametrize(
    ("seeds", "more", "said"),
    [
        ((), {}, "at least one seed"),
        ((1, 1), {}, "each once"),
        ((1, 2, 3), {}, "expected 3 of treatment, got 2"),
        ((1, 2), {"control_censored": (True,)}, "expected 2 of control_censored, got 1"),
    ],
)
def test_lists_that_do_not_match(seeds, more, said):
    with pytest.raises(StudyError, match=said):
        Pairs(a_hypothesis(), seeds, (1.0, 2.0), (1.0, 2.0), **more)


@pytest.mark.parametrize(
    ("margin", "kind"),
    [
        (-0.1, "superiority"),
        (math.nan, "superiority"),
        (math.inf, "superiority"),
        (0.0, "superiority"),
        (0.0, "equivalence"),
    ],
)
def test_a_margin_that_means_nothing(margin, kind):
    with pytest.raises(StudyError, match="margin"):
        a_hypothesis(margin=margin, kind=kind)


@pytest.mark.parametrize(
    ("changes", "effect"),
    [
        ({"scale": "ratio", "better": "lower"}, math.log(2)),  # half the steps
        ({"scale": "ratio", "better": "higher"}, -math.log(2)),
        ({"scale": "difference", "better": "lower"}, 50.0),
        ({"scale": "difference", "better": "higher"}, -50.0),
    ],
)
def test_effects_are_positive_where_they_speak_for_the_claim(changes, effect):
    effects = pairs_of((50.0,), (100.0,), a_hypothesis(**changes)).effects()
    assert effects.low == pytest.approx([effect])
    assert (effects.low == effects.high).all()


def test_censored_values_are_bounds_on_the_side_that_the_claim_says():
    """Of steps a treatment that never got there is at most so good, and a control at least so bad."""
    treatment, control = (BUDGET + 1, 100.0, BUDGET + 1, 100.0), (100.0, BUDGET + 1, BUDGET + 1, 100.0)
    fewer = pairs_of(treatment, control).effects()
    known = math.log(4.01)
    assert fewer.low == pytest.approx([-math.inf, known, -math.inf, 0.0])
    assert fewer.high == pytest.approx([-known, math.inf, math.inf, 0.0])
    more = pairs_of(treatment, control, a_hypothesis(better="higher")).effects()
    assert more.low == pytest.approx(-fewer.high)
    assert more.high == pytest.approx(-fewer.low)


def test_differences_that_are_equal_in_exact_arithmetic_are_one_number():
    effects = pairs_of((0.97, 0.96), (0.95, 0.94), a_hypothesis(**POINTS, margin=0.02)).effects()
    assert len(set(effects.low.tolist())) == 1
    assert effects.low[0] == effects.margin == 0.02


def test_the_digits_that_are_kept_go_with_the_size_of_the_values():
    tiny = pairs_of((3e-9,), (1e-9,), a_hypothesis(**POINTS, margin=1e-12)).effects()
    assert tiny.low == pytest.approx([2e-9], rel=1e-6)
    assert np.isfinite(pairs_of((1e-30,), (1e-30,), a_hypothesis(**POINTS, margin=1e-12)).effects().low).all()
