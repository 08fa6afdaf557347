"""A borrowed model is as it was, whatever its forward and its hooks do, and however the block ends."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.states import state_of
from torch import nn

from normsmith.anatomy.preserve import preserved


class Restless(nn.Module):
    """Every forward changes something of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.history, self.names, self.table, self.last = [1], {"a"}, {"x": 1}, None

    def forward(self, x):
        self.calls += 1
        self.history.append(x)
        self.names.add("b")
        self.table["x"] = 2
        self.last = x
        self.new = torch.rand(())
        return self.layer(self.norm(x))


@pytest.fixture
def model():
    model = Restless().train()
    model.layer.eval()
    model.norm.weight.grad = torch.ones(3)
    model.seen = []
    model.layer.register_forward_hook(lambda *_: model.seen.append(1))
    return model


def test_a_forward_leaves_nothing_behind(model):
    x = torch.randn(4, 3)
    before = state_of(model)
    with preserved(model):
        model(x)
        assert model.history != [1]
        assert model.calls == 1
    assert state_of(model) == before
    assert (model.history, model.names, model.table, model.seen) == ([1], {"a"}, {"x": 1}, [])
    assert model.norm.weight.grad.tolist() == [1.0] * 3


def fail_after(model, x, error):
    model(x)
    raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing_behind_either(model, error):
    x = torch.randn(4, 3)
    before = state_of(model)
    with pytest.raises(error), preserved(model):
        fail_after(model, x, error)
    assert state_of(model) == before


def test_training_within_the_block_leaves_nothing_behind(model):
    x = torch.randn(4, 3)
    before = state_of(model)
    gradient = model.norm.weight.grad
    with preserved(model):
        assert model.norm.weight.grad is None
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        model(x).square().sum().backward()
        optimizer.step()
    assert state_of(model) == before
    assert model.norm.weight.grad is gradient


def test_modes_hooks_and_other_tensors_are_put_back(model):
    before = state_of(model)
    hooks = list(model.layer._forward_hooks.values())
    with preserved(model):
        model.eval()
        model.layer._forward_hooks.clear()
        model.norm.register_forward_hook(lambda *_: None)
        model.layer.weight = nn.Parameter(torch.zeros(3, 3))
        model.norm.running_mean = torch.ones(3)
        model.added = nn.ReLU()
        del model.table
    assert state_of(model) == before
    assert list(model.layer._forward_hooks.values()) == hooks


def test_random_numbers_go_on_as_if_nothing_had_been_drawn(model):
    state = torch.get_rng_state()
    expected = torch.rand(2)
    torch.set_rng_state(state)
    with preserved(model):
        torch.rand(100)
    assert torch.equal(torch.rand(2), expected)


def test_blocks_within_each_other(model):
    x = torch.randn(4, 3)
    before = state_of(model)
    with preserved(model):
        model(x)
        inner = state_of(model)
        with preserved(model):
            model(x)
        assert state_of(model) == inner
    assert state_of(model) == before


def test_tensors_that_did_not_change_are_not_written_to():
    layer = nn.Linear(2, 2)
    y = layer(torch.ones(1, 2, requires_grad=True)).square().sum()
    with preserved(layer):
        layer(torch.ones(1, 2))
    y.backward()  # a write would be an error here: the graph needs the weight as it was
    assert layer.weight.grad is not None


def test_a_buffer_that_grew_in_place_has_its_shape_again():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.ones(1))

        def forward(self, x):
            self.seen.resize_(3).fill_(5.0)
            return x

    model = Growing()
    buffer = model.seen
    with preserved(model):
        model(torch.ones(1))
        assert len(model.seen) == 3
    assert model.seen is buffer
    assert model.seen.tolist() == [1.0]


def test_shared_tensors_and_tensors_without_values():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.LazyLinear(2), nn.Linear(2, 2, device="meta"))
    model[1].weight = model[0].weight
    before = state_of(model)
    with preserved(model), torch.no_grad():
        model[0].weight.zero_()
        assert torch.equal(model[1].weight, torch.zeros(2, 2))
    assert state_of(model) == before
