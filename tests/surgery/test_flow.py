"""Custom modules: Sequentials whose flow is provable are changed, everything else is refused with its reason."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normsmith.surgery import insert, strip, swap_activation


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


def reasons(plan):
    return {refusal.path: refusal.reason for refusal in plan.refusals}


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


class Attribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.second = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)

    def forward(self, x):
        return self.second(self.act(self.first(x)))


class Functional(Attribute):
    def forward(self, x):
        return self.second(F.relu(self.first(x)))


class Branching(Attribute):
    def forward(self, x):
        return self.second(self.act(self.first(x))) if x.sum() > 0 else self.second(self.first(x))


class Picking(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x):
        return self.body[2](self.body[1](self.body[0](x)))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(self.body(x)))


class Unused(Attribute):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        self.act = nn.Identity()


@pytest.mark.parametrize(
    ("model", "path", "words"),
    [
        (Attribute(), "act", "not in an nn.Sequential"),
        (Functional(), "", "calls the function relu; make it a module"),
        (Branching(), "act", "cannot be followed: TraceError"),
        (Picking(), "body.1", "picks it out of its nn.Sequential"),
        (Twice(), "body.1", "calls it more than once"),
        (Unused(), "body.1", "does not call it"),
        (nn.Sequential(Branching(), nn.Linear(2, 2)), "0.act", "cannot be followed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_what_cannot_be_proved_is_refused(model, path, words):
    assert words in reasons(swap_activation(model, "tanh"))[path]
