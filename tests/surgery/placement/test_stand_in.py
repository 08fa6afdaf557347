"""What stands where a norm was."""

import torch
from tests.surgery.hostile import PreActivation
from torch import nn

from normsmith.surgery import insert, strip
from normsmith.surgery.placement.stand_in import Copied, comes_right_after_a_producer, stand_in


def test_a_copy_is_another_tensor_and_passes_gradients_on():
    x = torch.ones(2, requires_grad=True)
    y = Copied()(x)
    assert y is not x
    y.mul_(2).sum().backward()
    assert torch.equal(x, torch.ones(2))
    assert torch.equal(x.grad, torch.full((2,), 2.0))
    assert type(stand_in(copies=False)) is nn.Identity


def test_norms_on_layers_come_right_after_them():
    model = insert(
        nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), "layer", batch=torch.ones(1, 3, 2)
    )
    model = model.apply()
    holder, name = next(
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.LayerNorm)
    )
    assert comes_right_after_a_producer(holder, name) is isinstance(holder, nn.Linear)
    before = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2))
    assert not comes_right_after_a_producer(before, "0")


class Dynamic(PreActivation):
    """A network that cannot be followed without a batch."""

    def block(self, x):
        return super().block(x) if bool(x.sum() < 1e9) else x


def test_what_cannot_be_followed_gets_copies_but_after_layers():
    model = nn.ModuleDict(
        {"one": Dynamic(apart=False), "two": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))}
    )
    strip(model).apply()
    assert isinstance(model["one"].bn, Copied)
    assert type(model["two"][1]) is nn.Identity
