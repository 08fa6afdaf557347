"""Norms attached to anybody's layer by hooks, and detached again: done, undone, and refused when things changed."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.surgery.states import state_of
from torch import nn

from normsmith.anatomy.hooks import attached_norms
from normsmith.surgery.placement.hooks import AttachEdit, DetachEdit

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 4)


def attach(host: nn.Module, side="after", norm: nn.Module | None = None) -> AttachEdit:
    return AttachEdit(host, "norm", norm or nn.LayerNorm(4), side, channels_last=False)


@pytest.mark.parametrize("side", ["before", "after"])
def test_an_attached_norm_is_applied_and_taken_back(side):
    host, bare, norm = layer(), layer(), nn.LayerNorm(4)
    before, edit = state_of(host), attach(host, side, norm)
    assert edit.is_possible()
    assert not edit.is_undoable()
    edit.do()
    assert torch.equal(host(X), norm(bare(X)) if side == "after" else bare(norm(X)))
    assert torch.equal(host(input=X), host(X))  # by its name, too
    assert set(host.state_dict()) - set(bare.state_dict()) == {"norm.weight", "norm.bias"}
    assert (edit.is_possible(), edit.is_undoable(), list(edit.touches())) == (False, True, [host])
    edit.undo()
    assert state_of(host) == before


def test_what_was_never_done_is_undone_without_harm():
    host = layer()
    before = state_of(host)
    attach(host).undo()
    assert state_of(host) == before


def test_a_name_that_is_taken_is_impossible():
    host = layer()
    host.norm = "mine"
    assert not attach(host).is_possible()


def test_another_child_or_a_missing_hook_is_not_undone():
    host = layer()
    edit = attach(host)
    edit.do()
    norm, host.norm = host.norm, nn.Identity()
    assert not edit.is_undoable()
    host.norm = norm
    assert edit.is_undoable()
    host._forward_hooks.clear()
    assert not edit.is_undoable()


def test_what_replaces_the_norm_is_called_from_then_on():
    host, bare = layer(), layer()
    attach(host).do()
    host.norm = nn.Tanh()
    assert torch.equal(host(X), bare(X).tanh())
    assert torch.equal(copy.deepcopy(host)(X), host(X))


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_detached_norm_goes_with_its_hook_and_comes_back_between_its_neighbours(side):
    host = layer()
    host.first = nn.Identity()
    host.register_forward_hook(lambda *_: None)
    host.register_forward_pre_hook(lambda *_: None)
    attach(host, side).do()
    host.last = nn.Identity()
    host.register_forward_hook(lambda *_: None)
    host.register_forward_pre_hook(lambda *_: None)
    normed, output = state_of(host), host(X)
    edit = DetachEdit(host, "norm")
    assert edit.is_possible()
    assert not edit.is_undoable()
    edit.do()
    assert torch.equal(host(X), layer()(X))
    assert [name for name, _ in host.named_children()] == ["first", "last"]
    assert (len(host._forward_hooks), len(host._forward_pre_hooks)) == (2, 2)
    assert (edit.is_possible(), edit.is_undoable(), list(edit.touches())) == (False, True, [host])
    edit.undo()
    assert torch.equal(host(X), output)
    assert state_of(host) == normed


def test_hooks_and_children_of_after_the_detachment_stay():
    host = layer()
    attach(host).do()
    edit = DetachEdit(host, "norm")
    edit.do()
    host.later = nn.Identity()
    handle = host.register_forward_hook(lambda *_: None)
    edit.undo()
    assert [name for name, _ in host.named_children()] == ["norm", "later"]
    assert len(host._forward_hooks) == 2
    handle.remove()
    assert [hook.name for hook in attached_norms(host).values()] == ["norm"]


def test_a_norm_that_was_replaced_since_is_not_detached():
    host = layer()
    attach(host).do()
    edit = DetachEdit(host, "norm")
    norm, host.norm = host.norm, nn.Identity()
    assert not edit.is_possible()
    host.norm = norm
    assert edit.is_possible()
    host._forward_hooks.clear()
    assert not edit.is_possible()


def test_one_of_two_norms_is_detached():
    host, bare, second = layer(), layer(), nn.LayerNorm(4)
    attach(host).do()
    AttachEdit(host, "norm2", second, "after", channels_last=False).do()
    DetachEdit(host, "norm").do()
    assert torch.equal(host(X), second(bare(X)))


def test_a_name_that_was_taken_in_between_is_not_overwritten():
    host = layer()
    attach(host).do()
    edit = DetachEdit(host, "norm")
    edit.do()
    host.norm = nn.Identity()
    assert not edit.is_undoable()


def test_a_norm_that_was_moved_away_and_back_is_not_taken_out_without_its_new_hook():
    host, norm = nn.Linear(3, 3), nn.LayerNorm(3)
    first = AttachEdit(host, "norm", norm, "before", channels_last=True)
    first.do()
    detached = DetachEdit(host, "norm")
    detached.do()
    again = AttachEdit(host, "norm", norm, "before", channels_last=True)
    again.do()
    assert again.is_undoable()
    assert not first.is_undoable()
    again.undo()
    detached.undo()
    assert first.is_undoable()
    first.undo()
    assert not attached_norms(host)
