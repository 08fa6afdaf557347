"""Kinds of calls: found again, and only as many as are asked for."""

from __future__ import annotations

import torch

from normsmith.ops import Running
from normsmith.ops.kinds import Kinds
from normsmith.ops.prepared import prepare


def given(x=None, weight=None, residual=None, mean=None):
    return torch.randn(6, 3) if x is None else x, weight, None, residual, mean, None, None, None


def test_a_kind_that_was_met_is_found():
    kinds = Kinds(4)
    kinds.meet("a", given())
    kind = kinds.find("a", *given())
    assert kind is not None
    assert (kind.call, kind.is_new, kind.differentiated) == (None, True, False)
    assert kinds.find("b", *given()) is None
    for other in (
        given(torch.randn(6, 3).double()),
        given(weight=torch.ones(3)),
        given(residual=torch.randn(6, 3)),
    ):
        assert kinds.find("a", *other) is None


def test_several_kinds_have_the_same_settings():
    kinds = Kinds(8)
    for value in (given(), given(weight=torch.ones(3)), given(weight=torch.ones(3, requires_grad=True))):
        kinds.meet("a", value)
    assert len(kinds) == 3
    assert kinds.find("a", *given()).differentiated is False
    assert kinds.find("a", *given(weight=torch.ones(3, requires_grad=True))).differentiated is True
    for rows in range(2, 7):
        kinds.meet("a", given(torch.randn(rows, 3)))
    assert kinds.find("a", *given(torch.randn(6, 3))) is not None
    assert kinds.find("a", *given(torch.randn(2, 3))) is None  # the oldest of five


def test_where_there_are_too_many_they_are_met_anew():
    kinds = Kinds(3)
    for settings in "abcd":
        kinds.meet(settings, given())
    assert len(kinds) == 1
    assert kinds.find("d", *given()) is not None


def test_what_no_call_can_be_prepared_for_is_forgotten():
    kinds = Kinds(4)
    for value in (
        given(torch.eye(3).to_sparse()),
        given(weight=torch.ones(3, device="meta")),
        given(residual=torch.randn(3, 6).t()),
        given(residual=torch.randn(6, 3).double()),
        given(mean=torch.zeros(3, requires_grad=True)),
    ):
        kinds.meet("a", value)
    assert len(kinds) == 0


def test_what_is_bound_is_found_where_it_was():
    kinds, weight = Kinds(4), torch.ones(3)
    kinds.meet("a", given(weight=weight))
    kind = kinds.find("a", *given(weight=weight))
    call = prepare(torch.randn(6, 3), weight, None, None)
    call.is_bound = True
    kind.keep(call, given(weight=weight))
    assert not kind.is_new
    assert kinds.find("a", *given(weight=weight)) is kind
    assert kinds.find("a", *given(weight=torch.ones(3))) is None


def test_what_is_not_bound_is_found_anywhere():
    kinds, x = Kinds(4), torch.randn(6, 3)
    kinds.meet("a", given(x, weight=torch.ones(3)))
    kind = kinds.find("a", *given(weight=torch.ones(3)))
    running = Running(torch.zeros(3), torch.ones(3))
    kind.keep(prepare(x, torch.ones(3), None, running), given(weight=torch.ones(3)))
    assert kinds.find("a", *given(weight=torch.ones(3))) is kind


def test_a_tensor_without_elements_is_not_the_lack_of_one():
    kinds = Kinds(4)
    kinds.meet("a", given())
    for name in ("weight", "residual", "mean"):
        assert kinds.find("a", *given(**{name: torch.empty(0)})) is None


def test_a_residual_that_is_the_batch():
    kinds, x = Kinds(4), torch.randn(6, 3)
    kinds.meet("a", given(x, residual=x))
    y = torch.randn(6, 3)
    assert kinds.find("a", *given(y, residual=y)) is not None
    for other in (None, torch.randn(6, 3), torch.empty(1)):
        assert kinds.find("a", *given(y, residual=other)) is None
