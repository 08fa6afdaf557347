"""Sizes that know what each sample by itself would have."""

from __future__ import annotations

import copy
import math
import pickle

import pytest

from normsmith.anatomy.lengths.sizes import Quotient, Size, differing, plain_number, values_of


class Asker:
    def __init__(self) -> None:
        self.is_open = True

    def refuse(self, reason: str) -> None:
        raise ValueError(reason)


@pytest.fixture
def asker() -> Asker:
    return Asker()


@pytest.fixture
def size(asker: Asker) -> Size:
    return Size(8, (8, 5), asker, axis=0)


@pytest.mark.parametrize(
    ("made", "values"),
    [
        (lambda size: size - 1, (7, 4)),
        (lambda size: 10 - size, (2, 5)),
        (lambda size: size // 2 * 3 + 1, (13, 7)),
        (lambda size: -size, (-8, -5)),
        (lambda size: math.ceil(size / 3), (3, 2)),
        (lambda size: round(size * 0.5, 1), (4.0, 2.5)),
        (lambda size: size + size, (16, 10)),
    ],
)
def test_arithmetic_keeps_the_numbers_of_samples(size, made, values) -> None:
    number = made(size)
    assert values_of(number, 2) == values
    assert plain_number(number) == values[0]
    assert type(plain_number(number)) in (int, float)


@pytest.mark.parametrize(
    "decide",
    [
        lambda size: size < 6,
        lambda size: bool(size % 5),
        lambda size: size % 2 == 0,
        lambda size: int(size / 2),
        int,
        math.sqrt,
        lambda size: float(size - 1),
        lambda size: size - 8 != 0,
    ],
)
def test_what_would_differ_between_samples_is_refused(size, decide) -> None:
    with pytest.raises(ValueError, match="samples by themselves, with"):
        decide(size)


def test_what_is_the_same_for_all_samples_is_answered(size) -> None:
    assert size > 4
    assert size <= 8
    assert size
    assert size == 8, "a mask that was padded along, say"
    assert size != 9
    assert int(size // 10) == 0
    assert size == Size(8, (8, 5), size.asker)
    assert size != "8"


def test_after_the_block_it_is_a_number(size, asker) -> None:
    asker.is_open = False
    assert not (size - 1 < 6)
    assert type(size - 1) is int
    assert differing(size) is None
    assert int(size) == 8


def test_copies_and_keys_are_plain(size) -> None:
    assert type(pickle.loads(pickle.dumps(size))) is int
    assert type(copy.deepcopy(size)) is int
    assert {8: "eight"}[size] == "eight"
    assert differing(Quotient(1.0, (1.0, 1.0), size.asker)) is None
    assert differing(7) is None
    assert values_of(7, 3) == (7, 7, 7)
