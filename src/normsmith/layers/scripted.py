"""What `torch.jit.script` compiles in the place of a layer: torch's batch norm, in evaluation.

Annotations here are no strings: TorchScript reads them.
"""

import gc
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from normsmith._torch import (
    TorchBatchNorm,
    buffers_of,
    children_so_far,
    forward_hooks_of,
    forward_pre_hooks_of,
    parameters_of,
)
from normsmith.errors import InputError
from normsmith.layers._where import where


class _StandIn(TorchBatchNorm):
    """A torch norm that stands in a model which was scripted, until the model trains again.

    `torch.jit.script` exchanges the layers in the very model that it is given, not in a copy. Parameters and buffers
    are those of the layer, so the model evaluates as before; before it trains, each layer takes its place again.
    """

    def train(self, mode: bool = True) -> Any:
        """Give the place back to the layer, which trains; in evaluation nothing changes."""
        if not mode:
            return super().train(mode)
        layer: nn.Module = vars(self)["layer"][0]
        for module in gc.get_objects():
            if issubclass(type(module), nn.Module):
                children: Any = children_so_far(module)
                for name in [name for name, child in children.items() if child is self]:
                    children[name] = layer
        return layer.train(mode)


class BatchNorm1d(_StandIn, nn.BatchNorm1d):
    """torch's layer."""


class BatchNorm2d(_StandIn, nn.BatchNorm2d):
    """torch's layer."""


class BatchNorm3d(_StandIn, nn.BatchNorm3d):
    """torch's layer."""


class _Evaluated(_StandIn):
    """Evaluation of a layer which does more in training than torch's: y = act(norm(x) + residual), 0 where masked."""

    __constants__ = ["activation", "frozen", "dimensions"]  # noqa: RUF012  # torch's is no ClassVar
    activation: str
    frozen: bool
    dimensions: list[int]

    def forward(
        self,
        input: Tensor,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Evaluate; arguments are those of the layer."""
        if self.training and not self.frozen:
            raise RuntimeError(
                "scripted in evaluation: call .eval() on the scripted model, train the original"
            )
        if input.dim() not in self.dimensions:
            raise RuntimeError(f"expected an input of {self.dimensions} dimensions, got {input.dim()}")
        y = F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias,
            self.running_mean is None, 0.0, self.eps,
        )  # fmt: skip
        if residual is not None:
            y = y + residual
        y = activated(y, self.activation)
        return y if mask is None else torch.where(mask.unsqueeze(1) != 0, y, torch.zeros_like(y))


def activated(y: Tensor, name: str) -> Tensor:
    """An activation by name, as TorchScript can choose it."""
    if name == "relu":
        y = F.relu(y)
    elif name == "leaky_relu":
        y = F.leaky_relu(y)
    elif name == "silu":
        y = F.silu(y)
    elif name == "gelu":
        y = F.gelu(y)
    elif name == "hardswish":
        y = F.hardswish(y)
    elif name == "sigmoid":
        y = torch.sigmoid(y)
    elif name == "tanh":
        y = torch.tanh(y)
    return y


_PLAIN: dict[int, type[_StandIn]] = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}


def stand_in(layer: Any, *, plain: bool) -> _StandIn:
    """What torch.jit.script compiles in the place of a layer that is evaluated.

    Args:
        layer: any norm that evaluates by a running mean and variance.
        plain: whether torch's layer does in training what it does.

    Raises:
        InputError: there is nothing of torch that computes the same; says what to do.
    """
    obstacle = _obstacle(layer)
    if obstacle is not None:
        raise InputError(f"{where(layer)}: torch.jit.script: {obstacle}")
    kind: type[_StandIn] = _PLAIN[max(layer.spatial)] if plain else _Evaluated
    new: Any = kind(layer.num_features, layer.epsilon, layer.momentum, False, False, device="meta")
    new.affine, new.track_running_stats = layer.affine, layer.track_running_stats
    parameters_of(new).update(parameters_of(layer))
    held = dict(buffers_of(layer))
    std, mean = held.pop("running_std", None), held["running_mean"]
    if std is not None:
        held["running_var"] = std.detach() ** 2 - layer.epsilon  # with which torch evaluates the same
    buffers_of(new).update(held)
    for name, vector in parameters_of(new).items():
        if mean is not None and vector is not None and vector.dtype != mean.dtype:
            parameters_of(new)[name] = nn.Parameter(vector.detach().to(mean.dtype), vector.requires_grad)
    if not plain:
        new.activation, new.frozen = layer.activation or "", layer.pinned is not None
        new.dimensions = [2 + dimensions for dimensions in layer.spatial]
    forward_hooks_of(new).update(forward_hooks_of(layer))
    forward_pre_hooks_of(new).update(forward_pre_hooks_of(layer))
    vars(new)["layer"] = (layer,)  # in a tuple: no child, and nothing that TorchScript looks into
    new.training = False
    made: _StandIn = new
    return made


def _obstacle(layer: Any) -> str | None:
    """Why a layer cannot be scripted, and what to do; None where it can."""
    if is_parametrized(layer):
        return "torch scripts no parametrized layer; call torch.nn.utils.parametrize.remove_parametrizations first"
    if any(is_lazy(tensor) for tensor in (*layer.parameters(), *layer.buffers())):
        return "expected a layer that knows its number of channels, got a lazy one; run the model once first"
    if layer.context_mask is not None:
        return "expected no open use_mask, whose mask a scripted model would not know; script outside of the block"
    if layer.policy.normalize_with == "batch" and (layer.training or layer.pinned is not None):
        return (
            "expected evaluation, got a layer that normalises by its batch; call model.eval() first, use "
            'torch.compile to train faster, or normsmith.convert(model, to="torch") to train a scripted model'
        )
    return None


def unscriptable(layer: nn.Module) -> InputError:
    """The error of a layer for which torch has no counterpart."""
    return InputError(
        f"{where(layer)}: torch.jit.script: torch has no counterpart of {type(layer).__name__}; record it with "
        "torch.jit.trace(model.eval(), example), or use torch.export"
    )
