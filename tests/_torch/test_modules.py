"""What a module holds is still in its own dictionaries, and torch calls what layers override."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from normsmith import _torch
from normsmith.layers import BatchNorm1d


def test_what_a_module_holds_is_its_own_dictionaries() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    assert list(_torch.parameters_of(net[0])) == ["weight", "bias"]
    assert _torch.parameters_of(net[0])["bias"] is None
    assert list(_torch.buffers_of(net[1])) == ["running_mean", "running_var", "num_batches_tracked"]
    assert _torch.children_of(net) == {"0": net[0], "1": net[1]}
    gamma, mean, norm = nn.Parameter(torch.zeros(2)), torch.ones(2), nn.Identity()
    _torch.parameters_of(net[1])["weight"] = gamma
    _torch.buffers_of(net[1])["running_mean"] = mean
    assert net[1].weight is gamma
    assert net[1].running_mean is mean
    _torch.children_of(net)["1"] = norm
    assert net[1] is norm


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_a_scripted_module_holds_can_be_read() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    assert set(_torch.children_of(scripted)) == {"0", "1"}
    assert set(_torch.parameters_of(scripted[0])) == {"weight", "bias"}
    assert "running_mean" in _torch.buffers_of(scripted[1])


def test_a_module_before_its_constructor_has_no_children_so_far() -> None:
    assert _torch.children_so_far(nn.Module.__new__(nn.Module)) == {}
    net = nn.Sequential(nn.ReLU())
    assert _torch.children_so_far(net) == {"0": net[0]}


def test_torch_calls_the_private_methods_that_layers_override() -> None:
    calls: list[str] = []

    class Layer(nn.Linear):
        def _apply(self, fn: Any, recurse: bool = True) -> Layer:
            calls.append("_apply")
            super()._apply(fn, recurse)
            return self

        def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
            calls.append("_load_from_state_dict")
            super()._load_from_state_dict(*arguments, **options)

    nn.Sequential(layer := Layer(2, 2)).double()
    assert layer.weight.dtype == torch.float64
    nn.Sequential(layer).load_state_dict({"0.weight": torch.eye(2), "0.bias": torch.ones(2)})
    assert torch.equal(layer.bias.detach(), torch.ones(2).double())
    assert calls == ["_apply", "_load_from_state_dict"]
    assert _torch.convert_tensors(layer, lambda tensor: 3 * tensor) is layer
    missing: list[str] = []
    _torch.load_own_state(layer, {"0.weight": torch.eye(2)}, "0.", {}, True, missing, [], [])
    assert torch.equal(layer.weight.detach(), torch.eye(2).double())
    assert torch.equal(layer.bias.detach(), torch.full((2,), 3.0).double())
    assert missing == ["0.bias"]
    assert calls == ["_apply", "_load_from_state_dict"] * 2


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_layers_that_read_their_own_dictionaries_compile_without_a_break() -> None:
    norm = BatchNorm1d(3)
    compiled = torch.compile(norm, backend="eager", fullgraph=True)
    x = torch.randn(8, 3)
    assert torch.allclose(compiled(x), nn.BatchNorm1d(3)(x), atol=1e-5)
