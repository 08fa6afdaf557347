"""How active and how saturated units are, measured while a model runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from normsmith.anatomy.trace import trace
from normsmith.checks.activations import Activation, ActivationMeter


def measured(model: nn.Module, *batches: Tensor) -> tuple[Activation, ...]:
    meter = ActivationMeter(model, trace(model, batches[0]))
    with meter.watching():
        for x in batches:
            model(x)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return meter.measured


class Twice(nn.Module):
    """One module and one function, each called twice, on images and after a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1)
        self.third, self.fourth = nn.Linear(3, 4), nn.Linear(4, 5)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.second(self.act(self.first(x)))).mean((2, 3))
        return torch.tanh(self.fourth(torch.tanh(self.third(x))))


def test_each_call_has_its_own_units():
    rows = measured(Twice(), torch.randn(6, 1, 2, 2), torch.randn(6, 1, 2, 2))
    assert [(row.event.name.lower(), len(row.active), row.values) for row in rows] == [
        ("relu", 2, 48),
        ("relu", 3, 48),
        ("tanh", 4, 12),
        ("tanh", 5, 12),
    ]


def test_shares_are_those_of_the_most_active_and_the_least_flat_batch():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False), nn.Sigmoid())
    nn.init.ones_(model[0].weight)
    nn.init.constant_(model[2].weight, 6.0)
    one, other = torch.tensor([[1.0], [-1.0], [-1.0], [2.0]]), torch.tensor([[-1.0], [-1.0], [-1.0], [1.0]])
    cut, squashed = measured(model, one, other)
    assert (cut.active.item(), cut.flat.item(), cut.values) == (0.5, 0.0, 8)
    assert squashed.flat.item() == 0.25


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6()])
def test_modules_are_seen_before_they_overwrite(act):
    model = nn.Sequential(nn.Linear(1, 1, bias=False), act, nn.Linear(1, 1))
    nn.init.ones_(model[0].weight)
    (row,) = measured(model, torch.tensor([[1.0], [-1.0]]))
    assert row.active.item() == 0.5


def test_other_hardtanhs_and_activations_are_passed_by():
    model = nn.Sequential(nn.Linear(2, 2), nn.Hardtanh(), nn.GELU(), nn.Linear(2, 2), nn.Hardtanh(0, 1))
    assert measured(model, torch.randn(3, 2)) == ()


def test_a_recomputed_forward_does_not_count():
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.body, x, use_reentrant=False)

    model, x = Checkpointed(), torch.randn(4, 2)
    meter = ActivationMeter(model, trace(model, x))
    with meter.watching():
        model(x).sum().backward()
    (row,) = meter.measured
    assert row.values == 4


def test_an_exception_leaves_no_hook():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    meter = ActivationMeter(model, trace(model, torch.randn(3, 2)))
    with pytest.raises(RuntimeError), meter.watching():
        model(torch.randn(3, 5))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with meter.watching():
        model(torch.ones(3, 2))
    assert meter.measured[0].values == 3
    assert F.relu(torch.ones(1)).item() == 1
