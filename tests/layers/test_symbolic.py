"""Layers in graphs that torch.fx traces."""

import copy

import pytest
import torch
from tests.layers.kinds import batch, make
from torch import fx, nn

from normsmith.layers._symbolic import is_symbol


@pytest.mark.compiles
@pytest.mark.parametrize("name", ["BatchNorm2d", "BatchRenorm2d", "BatchNormAct2d"])
def test_symbolic_traces_call_the_layer(name):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(make(name)))
    traced, x = fx.symbolic_trace(copy.deepcopy(net)), batch(name)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["0", "1.0"]
    torch.testing.assert_close(traced(x), net(x))
    torch.testing.assert_close(traced.get_submodule("1.0").running_var, net[1][0].running_var)


def test_a_tensor_is_no_symbol_and_a_proxy_is_one():
    graph = fx.Graph()
    assert is_symbol(fx.Proxy(graph.placeholder("x")))
    assert not is_symbol(torch.ones(1))
    assert not is_symbol(None)
