"""Following a forward by symbols: Sequentials in modules of other classes, and what is beyond symbols."""

import pytest
import torch
from tests.surgery.networks import Conditional, images
from torch import nn

from normsmith.anatomy import trace
from normsmith.anatomy.hooks import After, Before
from normsmith.errors import SurgeryError
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


def test_what_the_data_decides_needs_data():
    model = Conditional()
    with pytest.raises(SurgeryError, match=r"cannot be followed without data .* give a batch"):
        trace(model)
    graph = trace(model, images(8)())
    assert graph.of(model.one)
    assert model.other not in graph.calls


def test_events_carry_the_path_of_the_module_whose_forward_calls():
    class Inner(nn.Module):
        def forward(self, x):
            return torch.relu(x)

    graph = trace(nn.Sequential(nn.Linear(2, 2), nn.Sequential(Inner())))
    assert [(event.kind, event.path, event.name) for event in graph.events] == [
        ("input", "", "input"), ("module", "0", "Linear"), ("function", "1.0", "relu"),
    ]  # fmt: skip
    assert graph.followed == "symbols"
    assert [event.shape for event in graph.events] == [None] * 3


def test_an_argument_that_is_taken_twice_is_there_twice():
    class Squared(nn.Module):
        def forward(self, x):
            return x * x

    (_, product) = trace(Squared()).events
    assert [source.name for source in product.sources] == ["x", "x"]


@pytest.mark.parametrize(
    ("hook", "order"), [(After, ["Linear", "LayerNorm"]), (Before, ["LayerNorm", "Linear"])]
)
def test_norms_that_hooks_apply_are_followed(hook, order):
    layer = nn.Linear(4, 4)
    layer.norm = nn.LayerNorm(4)
    if hook is After:
        layer.register_forward_hook(hook("norm", channels_last=True))
    else:
        layer.register_forward_pre_hook(hook("norm", channels_last=True), with_kwargs=True)
    assert [event.name for event in trace(nn.Sequential(layer)).events[1:]] == order


def test_calls_are_counted_for_composites_and_for_layers_inside_others():
    inner = nn.Sequential(nn.Linear(2, 2))
    model = nn.Sequential(inner, inner)
    calls = trace(model).calls
    assert (calls[model], calls[inner], calls[inner[0]]) == (1, 2, 2)


def test_composites_of_torch_cannot_be_looked_into():
    with pytest.raises(SurgeryError, match=r"TransformerEncoderLayer .* decides by its input"):
        trace(nn.Sequential(nn.TransformerEncoderLayer(4, 1)))
