"""Normalization layers by name, for a number of channels and the layer that produces them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from normsmith import layers
from normsmith.errors import InputError, SurgeryError

NAMES = ("batch", "renorm", "layer", "group")
Norm = str | Callable[[int, nn.Module], nn.Module]

_DIMENSIONS: dict[type[nn.Module], int] = {
    nn.Linear: 1,
    nn.Conv1d: 1,
    nn.Conv2d: 2,
    nn.Conv3d: 3,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.ConvTranspose3d: 3,
}
PRODUCERS = tuple(_DIMENSIONS)
_MOST_GROUPS = 8


def channels(producer: nn.Module) -> int:
    """How many channels a linear layer or convolution puts out.

    >>> channels(nn.Conv2d(3, 16, 3))
    16
    """
    layer: Any = producer
    return int(layer.out_features if isinstance(producer, nn.Linear) else layer.out_channels)


def make_norm(norm: Norm, producer: nn.Module, options: dict[str, Any]) -> nn.Module:
    """A norm for what `producer` puts out, with its dtype and device; the random state stays as it is.

    - "batch", "renorm": `BatchNorm1d/2d/3d`, `BatchRenorm1d/2d/3d` of normsmith; behind `nn.Linear`, whose
      output must be (N, C), the 1d ones.
    - "layer": `nn.LayerNorm(C)` behind a linear layer, `nn.GroupNorm(1, C)` behind a convolution.
    - "group": `nn.GroupNorm` with `num_groups`, or without it as many groups as divide C, at most 8 and of
      two channels at least (a group of a single value would be normalised to zero).
    - a callable: `norm(num_features, producer)` → module.

    `options` go to the layer's constructor. Raises InputError for an unknown name and SurgeryError for
    options that the layer does not take.
    """
    try:
        with torch.random.fork_rng(devices=_cuda_devices(producer)):
            made = norm(channels(producer), producer) if callable(norm) else _named(norm, producer, options)
    except (TypeError, ValueError) as error:
        raise SurgeryError(f"cannot make norm {norm!r} for {producer}: {error}") from error
    if not isinstance(made, nn.Module):
        raise SurgeryError(f"norm must make an nn.Module, got {type(made).__name__}")
    weight: Any = producer.weight
    return made.to(device=weight.device, dtype=weight.dtype).train(producer.training)


def check_norm(norm: Norm, options: dict[str, Any]) -> None:
    """Raise InputError unless `norm` is a known name or a callable, the latter without options."""
    if callable(norm):
        if options:
            raise InputError(
                f"options go with a norm's name, got {', '.join(options)} beside a callable; set them in it"
            )
    elif norm not in NAMES:
        raise InputError(f"norm must be one of {', '.join(NAMES)} or a callable, got {norm!r}")


def group_count(features: int) -> int:
    """The largest number of groups up to 8 that divides `features` into groups of two or more; else 1.

    >>> [group_count(features) for features in (64, 100, 7, 12, 2)]
    [8, 5, 1, 6, 1]
    """
    fitting = (groups for groups in range(_MOST_GROUPS, 1, -1) if features % groups == 0)
    return next((groups for groups in fitting if features // groups >= 2), 1)


def _named(name: str, producer: nn.Module, options: dict[str, Any]) -> nn.Module:
    features = channels(producer)
    if name == "group" or (name == "layer" and not isinstance(producer, nn.Linear)):
        groups = 1 if name == "layer" else options.get("num_groups", group_count(features))
        rest = {key: value for key, value in options.items() if key != "num_groups"}
        return nn.GroupNorm(groups, features, **rest)
    if name == "layer":
        return nn.LayerNorm(features, **options)
    dimensions = next(count for kind, count in _DIMENSIONS.items() if isinstance(producer, kind))
    kind = {"batch": "BatchNorm", "renorm": "BatchRenorm"}[name]
    layer: nn.Module = getattr(layers, f"{kind}{dimensions}d")(features, **options)
    return layer


def _cuda_devices(producer: nn.Module) -> list[torch.device]:
    weight: Any = producer.weight
    return [weight.device] if weight.device.type == "cuda" else []
