"""Following a real forward: what is recorded whatever the code of the model is."""

from collections import UserDict

import pytest
import torch
from tests.surgery.networks import REAL, FunctionalResidual, images
from torch import nn

from normsmith.anatomy import trace
from normsmith.anatomy.hooks import After
from normsmith.errors import SurgeryError
from normsmith.layers import BatchNorm1d
from normsmith.surgery import fold


def names(events):
    return [event.name for event in events]


def squared(x: torch.Tensor):
    return x * x


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_what_compiled_code_takes_is_seen():
    scripted = torch.jit.script(squared)

    class Scripted(nn.Sequential):
        def forward(self, x):
            y = self[0](x)
            return self[1](y) + scripted(y)

    model = Scripted(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    graph = trace(model, torch.randn(3, 4))
    assert names(graph.events[1:]) == ["Linear", "BatchNorm1d", "mul", "add"]
    assert names(graph.consumers(graph.events[1])) == ["BatchNorm1d", "mul"]
    assert "takes what 0 (Linear) puts out as well" in fold(model, torch.randn(3, 4)).refusals[0].reason


def test_a_mapping_goes_in_by_names():
    class Named(nn.Linear):
        def forward(self, *, x):
            return super().forward(x)

    graph = trace(Named(4, 2), UserDict(x=torch.randn(3, 4)))  # as tokenizers give
    assert [event.name for event in graph.events if event.kind == "input"] == ["x"]


def test_a_transformer_layer_is_looked_into():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).eval()
    graph = trace(model, torch.randn(2, 5, 8))
    assert len(graph.having("norm")) == 2
    assert len(graph.residuals) == 2
    assert "relu" in names(graph.having("activation"))
    with pytest.raises(SurgeryError, match="give a batch"):
        trace(model)


def test_levits_norms_have_their_linear_layers():
    graph = trace(REAL["hf-levit"].model(), REAL["hf-levit"].batch())
    linear = [
        e for e in graph.having("norm") if isinstance(e.module, nn.BatchNorm1d) and "classifier" not in e.path
    ]
    assert linear
    assert all(isinstance(graph.producer(event).module, nn.Linear) for event in linear)


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_compiled_model_is_traced_without_compiling():
    model = torch.compile(FunctionalResidual())
    graph = trace(model, images(8)())
    assert "BatchNorm2d" in names(graph.events)


def calls_of(forward, *children):
    """The names of the events after the input, and the graph, of a model with this forward."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(children)

        def forward(self, x):
            return forward(self.layers, x)

    graph = trace(Model(), torch.randn(3, 4))
    return names(graph.events[1:]), graph


def test_a_result_that_is_written_to_comes_from_what_was_written():
    def forward(layers, x):
        y = layers[0](x)
        y[0] = layers[1](x)[0]
        return torch.tanh(y)

    called, graph = calls_of(forward, nn.Linear(4, 4), nn.Linear(4, 4))
    assert called == ["Linear", "Linear", "getitem", "setitem", "tanh"]
    assert names(graph.events[-1].sources) == ["setitem"]
    assert names(graph.events[-2].sources) == ["Linear", "getitem"]


def test_a_layer_that_returns_its_argument_is_an_event_of_its_own():
    called, graph = calls_of(lambda layers, x: layers[0](x).relu() + x, nn.Identity())
    assert called == ["Identity", "relu", "add"]
    assert names(graph.consumers(graph.events[0])) == ["Identity", "add"]


def test_what_happens_inside_a_layer_is_one_event():
    called, graph = calls_of(
        lambda layers, x: layers[1](layers[0](x.unsqueeze(1))[0].squeeze(1)),
        nn.LSTM(4, 4, batch_first=True),
        BatchNorm1d(4),
    )
    assert called == ["unsqueeze", "LSTM", "squeeze", "BatchNorm1d"]
    assert graph.calls[graph.events[2].module] == 1


def test_norms_that_hooks_apply_are_events_of_their_own():
    layer = nn.Linear(4, 4)
    layer.norm = nn.LayerNorm(4)
    layer.register_forward_hook(After("norm", channels_last=True))
    graph = trace(nn.Sequential(layer, nn.ReLU()), torch.randn(3, 4))
    assert [(event.name, event.path) for event in graph.events[1:]] == [
        ("Linear", "0"), ("LayerNorm", "0.norm"), ("ReLU", "1"),
    ]  # fmt: skip
    assert names(graph.events[3].sources) == ["LayerNorm"]


def test_every_input_has_an_event_and_those_that_are_not_used_no_consumer():
    class Two(nn.Module):
        def forward(self, pair):
            return pair["a"].relu()

    graph = trace(Two(), ({"a": torch.ones(2), "b": torch.ones(3)},))
    first, second = (event for event in graph.events if event.kind == "input")
    assert (first.shape, second.shape) == ((2,), (3,))
    assert names(graph.consumers(first)) == ["relu"]
    assert graph.consumers(second) == ()


def test_shapes_and_outputs_are_those_of_the_forward():
    _, graph = calls_of(lambda layers, x: {"y": layers[0](x), "x": x}, nn.Linear(4, 2))
    assert [event.shape for event in graph.events] == [(3, 4), (3, 2)]
    assert graph.outputs == (graph.events[1], graph.events[0])
    assert graph.followed == "forward"


@pytest.mark.parametrize("enabled", [True, False])
def test_the_fast_path_of_attention_is_set_back(enabled):
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(enabled)
        trace(nn.Linear(4, 4), torch.randn(2, 4))
        assert torch.backends.mha.get_fastpath_enabled() == enabled
        with pytest.raises(SurgeryError):
            trace(nn.Linear(4, 4), torch.randn(2, 5))
        assert torch.backends.mha.get_fastpath_enabled() == enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_a_model_that_writes_to_its_input_leaves_the_batch_as_it_was():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2))

        def forward(self, x):
            return self.net(x.sub_(0.5))

    batch = torch.randn(4, 3)
    before = batch.clone()
    graph = trace(Centred(), batch)
    assert torch.equal(batch, before)
    assert names(graph.events)[:3] == ["input 0", "sub", "ReLU"]


def test_a_caller_may_put_the_state_back_itself():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()).train()
    graph = trace(model, torch.randn(4, 2), preserve=False)
    assert [event.name for event in graph.events[1:]] == ["BatchNorm1d", "ReLU"]
    assert not model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model)
