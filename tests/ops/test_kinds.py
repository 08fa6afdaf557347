"""Kinds of calls: found again, and only as many as are asked for."""

from __future__ import annotations

import torch

from normsmith.ops import Running
from normsmith.ops.kinds import Kinds
from normsmith.ops.prepared import prepare


def given(x=None, weight=None, residual=None, mean=None):
    return torch.randn(6, 3) if x is None else x, weight, None, residual, mean, None, None, None


def known(most: int, *tensors) -> Kinds:
    """Kinds of the settings "a" that have met such calls."""
    kinds = Kinds(most)
    kinds.meet("a", tensors[0])
    for each in tensors:
        kinds.meet("a", each)
    return kinds


def test_a_call_is_prepared_when_it_comes_again():
    kinds = Kinds(4)
    assert kinds.meet("a", given()) is None
    assert kinds.find("a", *given()) is None
    kind = kinds.meet("a", given())
    assert kinds.find("a", *given()) is kind
    assert (kind.call, kind.is_new, kind.differentiated) == (None, True, False)
    assert kinds.find("b", *given()) is None
    for other in (
        given(torch.randn(6, 3).double()),
        given(weight=torch.ones(3)),
        given(residual=torch.randn(6, 3)),
    ):
        assert kinds.find("a", *other) is None


def test_several_kinds_have_the_same_settings():
    trained = torch.ones(3, requires_grad=True)
    kinds = known(8, given(), given(weight=torch.ones(3)))
    assert kinds.meet("a", given(weight=trained)) is None  # until it comes again
    assert len(kinds) == 3
    assert kinds.find("a", *given()).differentiated is False
    assert kinds.find("a", *given(weight=trained)).differentiated is True
    for rows in range(2, 7):
        kinds.meet("a", given(torch.randn(rows, 3)))
    assert kinds.find("a", *given(torch.randn(6, 3))) is not None
    assert kinds.find("a", *given(torch.randn(2, 3))) is None  # the oldest of five


def test_where_there_are_too_many_they_are_met_anew():
    kinds = known(3, given())
    for settings in "bcd":
        assert kinds.find("a", *given()) is not None or settings == "d"
        kinds.meet(settings, given())
    assert len(kinds) == 0
    kinds = known(3, *(given(torch.randn(rows, 3)) for rows in (2, 3, 4, 5)))
    assert len(kinds) == 1
    assert kinds.find("a", *given(torch.randn(5, 3))) is not None


def test_what_no_call_can_be_prepared_for_is_forgotten():
    kinds = known(
        4,
        given(torch.eye(3).to_sparse()),
        given(weight=torch.ones(3, device="meta")),
        given(residual=torch.randn(3, 6).t()),
        given(residual=torch.randn(6, 3).double()),
        given(mean=torch.zeros(3, requires_grad=True)),
    )
    assert len(kinds) == 0


def test_what_is_bound_is_found_where_it_was():
    weight = torch.ones(3)
    kinds = known(4, given(weight=weight))
    kind = kinds.find("a", *given(weight=weight))
    call = prepare(torch.randn(6, 3), weight, None, None)
    call.is_bound = True
    kind.prepared(given(weight=weight), lambda: call)
    assert not kind.is_new
    assert kinds.find("a", *given(weight=weight)) is kind
    assert kinds.find("a", *given(weight=torch.ones(3))) is None


def test_what_is_not_bound_is_found_anywhere():
    x = torch.randn(6, 3)
    kinds = known(4, given(x, weight=torch.ones(3)))
    kind = kinds.find("a", *given(weight=torch.ones(3)))
    running = Running(torch.zeros(3), torch.ones(3))
    kind.prepared(given(weight=torch.ones(3)), prepare, x, torch.ones(3), None, running)
    assert kinds.find("a", *given(weight=torch.ones(3))) is kind


def test_a_tensor_without_elements_is_not_the_lack_of_one():
    kinds = known(4, given())
    for name in ("weight", "residual", "mean"):
        assert kinds.find("a", *given(**{name: torch.empty(0)})) is None


def test_a_residual_that_is_the_batch():
    x, y = torch.randn(6, 3), torch.randn(6, 3)
    kinds = known(4, given(x, residual=x))
    assert kinds.find("a", *given(y, residual=y)) is not None
    for other in (None, torch.randn(6, 3), torch.empty(1)):
        assert kinds.find("a", *given(y, residual=other)) is None
