"""Settings of a few words: another word is refused, with those that are known."""

import numpy as np
import pytest
import torch

from normsmith._choices import check_choice, did_you_mean, is_number
from normsmith.errors import InputError


def test_a_known_word_passes():
    check_choice("mode", "fast", ("fast", "exact"))


@pytest.mark.parametrize("value", ["slow", "", None, 3])
def test_any_other_value_is_refused_with_the_known_words(value):
    with pytest.raises(InputError) as caught:
        check_choice("mode", value, ("fast", "exact"))
    assert str(caught.value) == f"mode: expected one of 'fast', 'exact'; got {value!r}"


@pytest.mark.parametrize(
    ("word", "near"), [("fsat", "fast"), ("FAST", "fast"), ("exactly", "exact"), ("slow", ""), (None, "")]
)
def test_the_nearest_word_is_named(word, near):
    assert did_you_mean(word, ("fast", "exact")) == (f"; did you mean {near}?" if near else "")


def test_a_refusal_ends_with_the_nearest_word():
    with pytest.raises(InputError, match=r"; got 'exakt'; did you mean exact\?$"):
        check_choice("mode", "exakt", ("fast", "exact"))


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        (1, True),
        (0.5, True),
        (np.float32(0.5), True),
        (True, False),
        ("1", False),
        (None, False),
        (torch.ones(1), False),
    ],
)
def test_numbers_are_told_from_what_looks_like_one(value, is_one):
    assert is_number(value) == is_one
