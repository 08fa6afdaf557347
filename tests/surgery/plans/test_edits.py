"""Each edit does and undoes one step, knows when it can, and leaves nothing behind when it fails."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.networks import SharedNorm
from tests.surgery.small import BATCH, normed
from tests.surgery.states import state_of
from torch import nn

from normsmith.surgery.placement.sequential import Rearrangement
from normsmith.surgery.plans.edits import (
    AttributeEdit,
    BufferEdit,
    Edit,
    FollowMode,
    ModuleEdit,
    ParameterEdit,
    RequireUnchanged,
    ValueEdit,
    do_all,
    done,
    undo_all,
)


def edits() -> list[tuple[nn.Module, Edit]]:
    model = normed()
    children = Rearrangement(model)
    children.remove("1")
    return [
        (model, ModuleEdit(((model, "2"),), model[2], nn.Tanh())),
        (model, children),
        (model, ParameterEdit(model[0], "bias", model[0].bias, None)),
        (model, ValueEdit(model[1], "running_mean", torch.ones(8))),
        (model, AttributeEdit(model[1], "momentum", 0.5)),
        (model, AttributeEdit(model[1].weight, "requires_grad", False)),
    ]


@pytest.mark.parametrize("index", range(6))
def test_an_edit_does_and_undoes(index):
    model, edit = edits()[index]
    before = state_of(model)
    assert edit.is_possible()
    edit.do()
    assert state_of(model) != before
    assert edit.is_undoable()
    assert not edit.is_possible()
    edit.undo()
    assert state_of(model) == before


@pytest.mark.parametrize("index", range(6))
def test_an_edit_is_undoable_only_once_it_is_done(index):
    _, edit = edits()[index]
    # the values of a buffer are free to change in training, so a buffer edit asks for the shape alone
    assert edit.is_undoable() == isinstance(edit, ValueEdit)


def test_the_methods_of_an_edit_are_for_its_kinds_to_write():
    for method in (Edit().is_possible, Edit().is_undoable, Edit().do, Edit().undo):
        with pytest.raises(NotImplementedError):
            method()
    assert (Edit().replaced(), Edit().successors(), Edit().touches()) == ({}, {}, ())


# ModuleEdit


def module_edit(model: nn.Module, path: str, new: nn.Module) -> ModuleEdit:
    parent, _, name = path.rpartition(".")
    return ModuleEdit(((model.get_submodule(parent), name),), model.get_submodule(path), new)


def test_a_shared_module_is_replaced_in_all_its_holders():
    model = SharedNorm()
    old, new = model.norm, nn.Identity()
    edit = ModuleEdit(((model, "norm"), (model, "again")), old, new)
    edit.do()
    assert model.norm is model.again is new
    assert edit.replaced() == {old: new}
    assert list(edit.touches()) == [model, model]
    model.again = old
    assert not edit.is_undoable()
    model.again = new
    edit.undo()
    assert model.norm is model.again is old


def test_the_successor_has_the_mode_that_the_old_module_has_then():
    model, new = normed().train(), nn.Tanh().train()
    edit = module_edit(model, "2", new)
    model.eval()
    edit.do()
    assert not new.training
    model.train()
    edit.undo()
    assert model[2].training


def test_tensors_that_both_hold_are_those_of_undo_time():
    model = normed()
    old, new = model[1], nn.BatchNorm1d(8)
    new.weight, new.running_mean = old.weight, old.running_mean
    edit = module_edit(model, "1", new)
    assert set(edit.carries) == {"weight", "running_mean"}
    edit.do()
    new.weight = nn.Parameter(torch.full((8,), 3.0))
    bias = old.bias
    edit.undo()
    assert old.weight is new.weight
    assert old.bias is bias


def test_a_tensor_that_is_no_longer_the_same_in_both_makes_it_impossible():
    model = normed()
    new = nn.BatchNorm1d(8)
    new.weight = model[1].weight
    edit = module_edit(model, "1", new)
    assert edit.is_possible()
    model[1].weight = nn.Parameter(torch.ones(8))
    assert not edit.is_possible()


def test_another_module_in_the_place_makes_it_impossible():
    model = normed()
    edit = module_edit(model, "2", nn.Tanh())
    model[2] = nn.Sigmoid()
    assert not edit.is_possible()


def test_hooks_go_over_and_their_handles_still_remove_them():
    model, calls = normed(), []
    handle = model[2].register_forward_hook(lambda module, *_: calls.append(type(module)))
    edit = module_edit(model, "2", nn.Tanh())
    edit.do()
    later = model[2].register_forward_hook(lambda *_: calls.append("later"))
    model(BATCH)
    assert calls == [nn.Tanh, "later"]
    handle.remove()
    edit.undo()
    model(BATCH)
    assert calls == [nn.Tanh, "later", "later"]
    later.remove()
    model(BATCH)
    assert len(calls) == 3


class Watching(nn.Identity):
    """A module that hooks itself, as lazy layers do: torch then holds bound methods of it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.register_forward_pre_hook(self.watch)

    def watch(self, *_: object) -> None:
        self.seen += 1


def test_hooks_bound_to_the_module_itself_are_bound_to_its_successor():
    model = nn.Sequential(Watching())
    old, new = model[0], Watching()
    edit = module_edit(model, "0", new)
    edit.do()
    model(BATCH)
    assert (old.seen, new.seen) == (0, 1)
    edit.undo()
    model(BATCH)
    assert (old.seen, new.seen) == (1, 1)


def test_a_state_dict_hook_gets_the_successor():
    model, seen = normed(), []
    model[1].register_load_state_dict_pre_hook(lambda module, *_: seen.append(module))
    new = nn.BatchNorm1d(8)
    edit = module_edit(model, "1", new)
    edit.do()
    model.load_state_dict(model.state_dict())
    edit.undo()
    model.load_state_dict(model.state_dict())
    assert seen == [new, model[1]]


# ParameterEdit


def test_a_parameter_of_another_dtype_than_planned_does_not_fit():
    layer = nn.Linear(2, 3, bias=False)
    edit = ParameterEdit(layer, "bias", None, nn.Parameter(torch.zeros(3)))
    layer.double()
    assert not edit.is_possible()


def test_a_parameter_may_go_whatever_its_dtype():
    layer = nn.Linear(2, 3)
    edit = ParameterEdit(layer, "bias", layer.bias, None)
    layer.double()
    assert edit.is_possible()


def test_a_name_that_the_module_has_not_is_impossible():
    assert not ParameterEdit(nn.Linear(2, 3), "gain", None, None).is_possible()


@pytest.mark.parametrize("keeps_state", [True, False])
def test_an_optimizers_state_goes_over_where_asked(keeps_state):
    layer = nn.Linear(2, 3)
    old, new = layer.bias, nn.Parameter(torch.zeros(3))
    edit = ParameterEdit(layer, "bias", old, new, keeps_state=keeps_state)
    assert edit.successors() == ({old: new} if keeps_state else {})
    assert ParameterEdit(layer, "bias", old, None, keeps_state=True).successors() == {}
    assert list(edit.touches()) == [layer]


# ValueEdit


def test_a_buffer_stays_the_same_tensor_and_gets_its_bits_back():
    layer = nn.BatchNorm1d(2)
    layer.running_mean.copy_(torch.tensor([float("nan"), 0.1]))
    buffer, before = layer.running_mean, state_of(layer)
    edit = ValueEdit(layer, "running_mean", torch.tensor([1.0, 2.0]))
    assert edit.is_possible()
    edit.do()
    assert layer.running_mean is buffer
    assert buffer.tolist() == [1.0, 2.0]
    edit.undo()
    assert state_of(layer) == before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda layer: layer.running_mean.add_(1), id="other values"),
        pytest.param(lambda layer: layer.double(), id="another dtype"),
        pytest.param(lambda layer: setattr(layer, "running_mean", None), id="gone"),
        pytest.param(lambda layer: setattr(layer, "running_mean", torch.zeros(3)), id="another shape"),
    ],
)
def test_a_buffer_that_changed_since_is_not_written(change):
    layer = nn.BatchNorm1d(2)
    edit = ValueEdit(layer, "running_mean", torch.ones(2))
    change(layer)
    assert not edit.is_possible()


def test_a_buffer_is_given_back_in_the_dtype_that_it_has_then():
    layer = nn.BatchNorm1d(2)
    edit = ValueEdit(layer, "running_mean", torch.ones(2))
    edit.do()
    layer.double()
    assert edit.is_undoable()
    edit.undo()
    assert torch.equal(layer.running_mean, torch.zeros(2, dtype=torch.float64))
    layer.running_mean = torch.zeros(3)
    assert not edit.is_undoable()


# AttributeEdit


def test_an_attribute_is_compared_by_type_and_value():
    layer = nn.BatchNorm1d(2, momentum=1.0)
    edit = AttributeEdit(layer, "momentum", 0.5)
    layer.momentum = 1
    assert not edit.is_possible()  # equal, and of another type
    layer.momentum = 1.0
    assert edit.is_possible()
    assert list(edit.touches()) == [layer]
    assert list(AttributeEdit(layer.weight, "requires_grad", False).touches()) == []


# FollowMode and RequireUnchanged


def test_a_new_module_takes_the_mode_of_its_layer():
    layer, new = nn.Linear(2, 2).eval(), nn.Sequential(nn.LayerNorm(2))
    edit = FollowMode(layer, new)
    edit.do()
    assert not new[0].training
    assert edit.is_undoable()
    edit.undo()
    assert new[0].training
    layer.double()
    assert not edit.is_possible()


def test_values_that_others_were_computed_from_must_be_unchanged():
    norm = nn.BatchNorm1d(2, affine=False)
    norm.running_var.fill_(float("nan"))
    everything, mean = RequireUnchanged(norm), RequireUnchanged(norm, ["running_mean", "weight"])
    norm.num_batches_tracked.add_(1)  # no floating point number: nothing is computed from it
    assert everything.is_possible()
    norm.running_var.fill_(0.0)
    assert (everything.is_possible(), mean.is_possible()) == (False, True)
    norm.weight = nn.Parameter(torch.ones(2))
    assert not mean.is_possible()


def test_unchanged_changes_nothing():
    norm = nn.BatchNorm1d(2)
    before, edit = state_of(norm), RequireUnchanged(norm)
    edit.do()
    assert edit.is_undoable()
    edit.undo()
    assert state_of(norm) == before


# Several together


class Noted(Edit):
    """Notes what is done to it, and fails where told."""

    def __init__(self, notes: list[str], name: str, error: BaseException | None = None) -> None:
        self.notes, self.name, self.error = notes, name, error

    def do(self) -> None:
        self.notes.append(f"do {self.name}")
        if self.error is not None:
            raise self.error

    def undo(self) -> None:
        self.notes.append(f"undo {self.name}")


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_what_is_half_done_is_undone_the_last_first(error):
    notes: list[str] = []
    with pytest.raises(type(error)):
        do_all([Noted(notes, "a"), Noted(notes, "b", error), Noted(notes, "c")])
    assert notes == ["do a", "do b", "undo b", "undo a"]


def test_edits_are_undone_after_a_block_whatever_happens_in_it():
    notes: list[str] = []

    def inside() -> None:
        notes.append("inside")
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"), done([Noted(notes, "a"), Noted(notes, "b")]):
        inside()
    assert notes == ["do a", "do b", "inside", "undo b", "undo a"]


def test_several_edits_of_one_module_restore_it():
    model = normed()
    before = state_of(model)
    several = [
        ParameterEdit(model[0], "bias", model[0].bias, None),
        module_edit(model, "1", nn.Identity()),
        module_edit(model, "2", nn.Tanh()),
    ]
    do_all(several)
    assert model[0].bias is None
    assert type(model[1]) is nn.Identity
    undo_all(iter(several))
    assert state_of(model) == before


def test_children_must_be_those_of_the_time_of_planning():
    old, new, norm = nn.ReLU(), nn.Tanh(), nn.BatchNorm1d(3)
    old.norm = new.norm = norm
    model = nn.Sequential(old)
    edit = ModuleEdit(((model, "0"),), old, new)
    assert edit.is_possible()
    old.norm = nn.Identity()
    assert not edit.is_possible()
    old.norm = norm
    edit.do()
    assert edit.is_undoable()
    new.norm = nn.Identity()
    assert not edit.is_undoable()
    new.norm, new.other = norm, nn.Identity()
    assert not edit.is_undoable()


# BufferEdit


def test_a_buffer_of_another_shape_comes_and_goes():
    layer = nn.BatchNorm1d(2)
    old, new = layer.running_mean, torch.zeros(1)
    edit = BufferEdit(layer, "running_mean", old, new)
    assert edit.is_possible()
    edit.do()
    assert layer.running_mean is new
    assert edit.is_undoable()
    assert not edit.is_possible()
    edit.undo()
    assert layer.running_mean is old
    layer.double()
    assert not edit.is_possible()
