"""Linear layers whoever wrote them: what a probe takes for one, and what not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from normsmith.anatomy.linear_layers import LinearLayer, read_linear


class Own(nn.Module):
    """Holds torch's names and computes what `body` says."""

    def __init__(self, body, *, shape=(4, 3), bias=True):
        super().__init__()
        self.body, self.calls = body, 0
        self.weight = nn.Parameter(torch.randn(shape))
        self.register_parameter("bias", nn.Parameter(torch.randn(4)) if bias else None)

    def forward(self, x):
        return self.body(self, x)


def usual(layer, x):
    return F.linear(x, layer.weight, layer.bias)


def by_product(layer, x):
    return x @ layer.weight.T + layer.bias


def two_dimensional(layer, x):
    return torch.addmm(layer.bias, x, layer.weight)


def test_linear_layers():
    torch_s = LinearLayer(3, 4)
    assert read_linear(nn.Linear(3, 4)) == torch_s
    assert read_linear(Own(usual)) == torch_s
    assert read_linear(Own(usual, bias=False)) == torch_s
    assert read_linear(Own(by_product)) == torch_s
    assert read_linear(Own(two_dimensional, shape=(3, 4))) == LinearLayer(3, 4, is_transposed=True)
    assert read_linear(Own(usual, shape=(4, 4))) == LinearLayer(4, 4)
    assert read_linear(Own(two_dimensional, shape=(4, 4))) == LinearLayer(4, 4, is_transposed=True)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (lambda m, x: F.linear(x, m.weight / m.weight.norm(), m.bias), "its weight is normalised"),
        (lambda m, x: F.linear(x.clamp(-100, 100), m.weight, m.bias), "large inputs are cut"),
        (lambda m, x: F.linear(x, m.weight, m.bias).relu(), "an activation"),
        (lambda m, x: F.linear(x, m.weight), "the bias is not used"),
        (lambda m, x: F.linear(x, m.weight, m.bias) + 1e-3, "a shift of its own"),
        (lambda m, x: F.linear(x.float(), m.weight.float(), m.bias.float()), "it rounds"),
        (lambda m, x: F.linear(F.dropout(x), m.weight, m.bias), "noise in evaluation too"),
        (lambda m, x: (F.linear(x, m.weight, m.bias), x), "it returns more"),
        (lambda m, x: 1 / 0, "it fails"),
    ],
)
def test_what_computes_something_else(body, why):
    assert read_linear(Own(body)) is None, why


def test_a_bias_that_would_not_be_used_makes_it_none():
    assert read_linear(Own(lambda m, x: F.linear(x, m.weight), bias=False)) is None


def test_what_holds_more_is_none():
    masked = Own(usual)
    masked.register_buffer("mask", torch.ones(4, 3))
    adapted = Own(usual)
    adapted.adapter = nn.Linear(3, 4)
    replaced = Own(usual)
    replaced.forward = lambda x: x
    for module in (
        masked,
        adapted,
        replaced,
        nn.Conv1d(3, 4, 1),
        nn.LayerNorm(3),
        nn.Embedding(4, 3),
        nn.ReLU(),
    ):
        assert read_linear(module) is None
    assert read_linear(parametrizations.weight_norm(Own(usual))) is None


def test_the_module_and_the_random_state_are_left_alone():
    def counted(layer, x):
        layer.calls += 1
        torch.rand(1)
        return usual(layer, x)

    module, seen = Own(counted).train(), []
    module.register_forward_hook(lambda *_: seen.append(1))
    weight, state = module.weight, torch.get_rng_state()
    before = weight.clone()
    assert read_linear(module) is not None
    assert module.weight is weight
    assert torch.equal(weight, before)
    assert (module.calls, module.training, seen) == (0, True, [])
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_without_values_are_read_by_their_shape_or_not_at_all():
    with torch.device("meta"):
        assert read_linear(nn.Linear(3, 4)) == LinearLayer(3, 4)
        assert read_linear(Own(usual)) == LinearLayer(3, 4)
    lazy = Own(usual)
    lazy.weight = nn.UninitializedParameter()
    assert read_linear(lazy) is None
