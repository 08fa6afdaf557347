"""Modules of other classes, with Sequentials in them, followed by symbols."""

import torch
from torch import nn

from normsmith.surgery import insert, strip


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


def test_sequentials_called_as_a_whole_are_changed():
    model = Net()
    strip(model).apply()
    insert(model, "layer").apply()
    assert [type(m).__name__ for m in model.features] == ["Conv2d", "GroupNorm", "ReLU"]
    assert [type(m).__name__ for m in model.head] == ["Linear", "LayerNorm", "Tanh", "Linear"]
    assert model(torch.randn(3, 1, 6, 6)).shape == (3, 2)


def test_residual_blocks_in_a_sequential_are_followed():
    model = nn.Sequential(
        nn.Linear(4, 8), Residual(nn.Sequential(nn.Linear(8, 8), nn.ReLU())), nn.Linear(8, 2)
    )
    plan = insert(model, "layer")
    plan.apply()
    assert [change.path for change in plan.changes] == ["1.inner.1"]
    assert model(torch.randn(3, 4)).shape == (3, 2)


def test_the_end_of_a_custom_network_is_its_output():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Sigmoid())
            self.last = nn.Sigmoid()

        def forward(self, x):
            return torch.sigmoid(self.last(self.body(x)))

    plan = insert(Classifier(), "layer")
    assert not plan.refusals
    assert [change.path for change in plan.changes] == ["body.1"]


def test_tracing_leaves_module_and_random_state_alone():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            self.last = x
            return self.body(x) + torch.rand(1)

    model = Stateful()
    state = torch.get_rng_state()
    insert(model, "layer").apply()
    assert model.calls == 0
    assert not hasattr(model, "last")
    assert torch.equal(torch.get_rng_state(), state)
