"""Layers in graphs that torch.fx traces."""

import copy

import pytest
import torch
from tests.layers.kinds import batch, make
from torch import fx, nn

import normsmith.layers as ours
from normsmith.layers._symbolic import is_symbol


@pytest.mark.compiles
@pytest.mark.parametrize("name", ["BatchNorm2d", "BatchRenorm2d", "BatchNormAct2d"])
def test_symbolic_traces_call_the_layer(name):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(make(name)))
    traced, x = fx.symbolic_trace(copy.deepcopy(net)), batch(name)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["0", "1.0"]
    torch.testing.assert_close(traced(x), net(x))
    torch.testing.assert_close(traced.get_submodule("1.0").running_var, net[1][0].running_var)


@pytest.mark.compiles
@pytest.mark.parametrize(
    "layer", [ours.Whiten2d(3), ours.InputNorm(3)], ids=lambda layer: type(layer).__name__
)
def test_layers_that_are_no_batch_norms_are_nodes_too(layer):
    net, x = nn.Sequential(nn.Conv2d(3, 3, 1), layer).eval(), torch.randn(2, 3, 4, 4)
    traced = fx.symbolic_trace(copy.deepcopy(net))
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["0", "1"]
    torch.testing.assert_close(traced(x), net(x))


class Last(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        output, (h, _) = self.network(x)
        return output[-1] + h[0]


@pytest.mark.compiles
def test_a_recurrent_network_is_a_node_whose_results_are_taken_apart():
    net, x = Last(ours.BatchNormLSTM(2, 3)).eval(), torch.randn(4, 5, 2)
    torch.testing.assert_close(fx.symbolic_trace(copy.deepcopy(net))(x), net(x))


def test_a_tensor_is_no_symbol_and_a_proxy_is_one():
    graph = fx.Graph()
    assert is_symbol(fx.Proxy(graph.placeholder("x")))
    assert not is_symbol(torch.ones(1))
    assert not is_symbol(None)
