"""What `torch.jit.script` compiles in the place of a layer: torch's batch norm, in evaluation.

Annotations here are no strings: TorchScript reads them.
"""

import copy
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
    convert_tensors,
    load_own_state,
    parameters_of,
    share_hooks,
)
from normsmith.errors import InputError
from normsmith.layers._symbolic import call_in_graph, is_symbol
from normsmith.layers._where import where


class _StandIn(TorchBatchNorm):
    """A torch norm that stands in the place of a layer while `torch.jit.script` compiles the model.

    `torch.jit.script` exchanges the layers in the very model that it is given, not in a copy, and does not say when it
    is done. A stand-in evaluates as the layer does. Whatever else Python does with it is done by the layer: copies and
    pickles, and what is read of it but torch's attributes; and what changes a module, or reads its state, gives all
    layers their places again.
    """

    def __call__(
        self,
        input: Tensor,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Any:
        """Evaluate; what torch's forward does not take is given to the layer."""
        others = () if mask is sample_weight is residual is None else (mask, sample_weight, residual)
        if others and not isinstance(self, _Evaluated):
            return _in_its_place(self)(input, *others)
        return call_in_graph(self, input, *others) if is_symbol(input) else super().__call__(input, *others)

    def train(self, mode: bool = True) -> Any:
        """Set the mode of the layer."""
        return _in_its_place(self).train(mode)

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        return convert_tensors(_in_its_place(self), *arguments, **options)

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        """The state of the layer, under its names."""
        return _in_its_place(self).state_dict(*arguments, **options)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        load_own_state(_in_its_place(self), *arguments, **options)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "layer" not in vars(self):
                raise
            return getattr(_layer_of(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if "layer" in vars(self):
            setattr(_layer_of(self), name, value)  # without a search: torch.jit.script itself sets attributes

    def reset_parameters(self) -> None:
        """Reset the layer."""
        if "layer" in vars(self):  # not in the constructor
            _in_its_place(self).reset_parameters()

    def reset_running_stats(self) -> None:
        """Reset the statistics of the layer."""
        if "layer" in vars(self):
            _in_its_place(self).reset_running_stats()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(_layer_of(self), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _itself, (_layer_of(self),)

    def __prepare_scriptable__(self) -> nn.Module:
        made: nn.Module = _layer_of(self).__prepare_scriptable__()
        return made


def _layer_of(new: nn.Module) -> Any:
    return vars(new)["layer"][0]


def _itself(layer: nn.Module) -> nn.Module:
    return layer


def _in_its_place(new: _StandIn) -> Any:
    """The layer of a stand-in, after all layers have taken their places again, in all models: the search is long."""
    for module in gc.get_objects():
        if issubclass(type(module), nn.Module):
            children: Any = children_so_far(module)
            for name, child in children.items():
                if isinstance(child, _StandIn):
                    children[name] = _layer_of(child)
    return _layer_of(new)


def give_places_back(model: nn.Module) -> None:
    """Have the layers of a model that was scripted in their places, where tools look for them."""
    for module in model.modules():
        if isinstance(module, _StandIn):
            _in_its_place(module)
            break


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
        mean = self.running_mean
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias
        if mean is not None:  # of whose dtype torch wants γ and β
            weight = None if weight is None else weight.to(mean.dtype)
            bias = None if bias is None else bias.to(mean.dtype)
        y = F.batch_norm(input, mean, self.running_var, weight, bias, mean is None, 0.0, self.eps)
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
        plain: whether torch's layer does in training what it does; used where γ and β have the statistics' dtype.

    Raises:
        InputError: there is nothing of torch that computes the same; says what to do.
    """
    obstacle = _obstacle(layer)
    if obstacle is not None:
        raise InputError(f"{where(layer)}: torch.jit.script: {obstacle}")
    mean = layer.running_mean
    plain = plain and all(mean is None or vector.dtype == mean.dtype for vector in layer.parameters())
    kind: type[_StandIn] = _PLAIN[max(layer.spatial)] if plain else _Evaluated
    new: Any = kind(layer.num_features, layer.epsilon, layer.momentum, False, False, device="meta")
    new.affine, new.track_running_stats = layer.affine, layer.track_running_stats
    parameters_of(new).update(parameters_of(layer))
    held = dict(buffers_of(layer))
    std = held.pop("running_std", None)
    if std is not None:
        held["running_var"] = std.detach() ** 2 - layer.epsilon  # with which torch evaluates the same
    buffers_of(new).update(held)
    if not plain:
        new.activation, new.frozen = layer.activation or "", layer.pinned is not None
        new.dimensions = [2 + dimensions for dimensions in layer.spatial]
    share_hooks(layer, new)
    new.training = False
    vars(new)["layer"] = (layer,)  # in a tuple: no child, and nothing that TorchScript looks into
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
