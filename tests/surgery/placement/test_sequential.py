"""Children that come, go and move in one step, against the same done one by one."""

from __future__ import annotations

import random

import pytest
from torch import nn

from normsmith.surgery.placement.sequential import Rearrangement, SlotEdit, put_back


def sequence(number: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(1, 1) for _ in range(number)))


def one_by_one(names: list[str], name: str, neighbour: str | None, after: bool) -> None:
    if name in names:
        names.remove(name)
    if neighbour is not None:
        names.insert(names.index(neighbour) + after, name)


@pytest.mark.parametrize("seed", range(20))
def test_many_steps_are_those_steps_one_by_one(seed):
    draw, model = random.Random(seed), sequence(8)
    before, expected = dict(model._modules), list(model._modules)
    plan, comes = Rearrangement(model), {}
    for number in range(12):
        neighbour = draw.choice(expected)
        others = [name for name in expected if name != neighbour]
        moves, goes = draw.random() < 0.3, draw.random() < 0.3
        name = draw.choice(others) if (moves or goes) and len(others) > 1 else f"new{number}"
        child = before.get(name) or comes.setdefault(name, nn.ReLU())
        if goes and not moves and name in before:
            plan.remove(name)
            one_by_one(expected, name, None, False)
        else:
            after = draw.random() < 0.5
            plan.place(name, child, neighbour, after=after)
            one_by_one(expected, name, neighbour, after)
    assert plan.is_possible()
    plan.do()
    assert list(model._modules) == expected
    assert all(model._modules[name] is (before.get(name) or comes[name]) for name in expected)
    assert plan.is_undoable()
    plan.undo()
    assert list(model._modules.items()) == list(before.items())


def test_what_came_and_what_was_replaced_in_between_stays():
    model = sequence(3)
    plan = Rearrangement(model)
    plan.place("norm", nn.ReLU(), "1", after=True)
    plan.remove("2")
    plan.do()
    assert list(model._modules) == ["0", "1", "norm"]
    model._modules["0"] = replaced = nn.Tanh()
    model.append(last := nn.ReLU())
    plan.undo()
    assert list(model._modules) == ["0", "1", "2", "3"]
    assert model._modules["0"] is replaced
    assert model._modules["3"] is last


def test_what_went_in_between_stays_away():
    model = sequence(3)
    plan = Rearrangement(model)
    plan.remove("2")
    plan.do()
    del model._modules["0"]
    plan.undo()
    assert list(model._modules) == ["1", "2"]


def test_a_model_that_changed_is_seen():
    model = sequence(3)
    plan = Rearrangement(model)
    plan.place("norm", nn.ReLU(), "1", after=True)
    model[1] = nn.Tanh()
    assert not plan.is_possible()


class Interrupted(dict):
    """Children whose first update is interrupted."""

    def update(self, *_):
        type(self).update = dict.update
        raise KeyboardInterrupt


def test_an_interrupt_between_the_old_children_and_the_new_ones():
    model = sequence(3)
    vars(model)["_modules"] = Interrupted(model._modules)
    before = list(model._modules.items())
    plan = Rearrangement(model)
    plan.place("norm", nn.ReLU(), "1", after=True)
    with pytest.raises(KeyboardInterrupt):
        plan.do()
    assert list(model._modules.items()) == before


def test_another_child_takes_the_places_of_one_and_each_keeps_mode_and_hooks():
    model = sequence(2)
    model.again = model[1]
    old, new = model[1], nn.Identity().eval()
    old.register_forward_hook(lambda *_: None)
    edit = SlotEdit(((model, "1"), (model, "again")), old, new)
    assert (edit.is_possible(), edit.is_undoable()) == (True, False)
    edit.do()
    assert model[1] is model.again is new
    assert (new.training, len(new._forward_hooks), len(old._forward_hooks)) == (False, 0, 1)
    assert (edit.is_possible(), edit.is_undoable(), list(edit.touches())) == (False, True, [model, model])
    edit.undo()
    assert model[1] is model.again is old


def test_a_place_that_was_filled_since_is_not_given_back():
    model = sequence(1)
    edit = SlotEdit(((model, "0"),), model[0], nn.Identity())
    edit.do()
    model[0] = nn.Tanh()
    assert not edit.is_undoable()


def test_an_entry_comes_back_to_its_place_before_what_is_new():
    entries = {"b": 2, "new": 4}
    put_back(entries, {"a": 1, "b": 0}, "a")
    assert list(entries.items()) == [("a", 1), ("b", 2), ("new", 4)]


def test_what_was_not_there_before_is_not_put_back():
    entries = {"a": 1}
    put_back(entries, {"a": 0}, "b")
    assert entries == {"a": 1}
