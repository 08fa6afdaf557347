"""Normalization layers by name, for a number of channels and the layer that produces them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from normsmith import layers
from normsmith._choices import did_you_mean
from normsmith.anatomy.kinds import Signal
from normsmith.errors import InputError, SurgeryError

NAMES = ("batch", "renorm", "layer", "group")
Norm = str | Callable[[int, nn.Module], nn.Module]

_MOST_GROUPS = 8
_NO_SETTING = {"num_features", "num_channels", "normalized_shape", "device", "dtype"}
"""What a norm's constructor takes, and is given by the place where the norm stands."""


def make_norm(norm: Norm, signal: Signal, layer: nn.Module, options: dict[str, Any]) -> nn.Module:
    """A norm for a signal, with dtype and device of `layer`, which it comes from; no random number is drawn.

    - "batch", "renorm": `BatchNorm1d/2d/3d`, `BatchRenorm1d/2d/3d` of normsmith.
    - "layer": `nn.LayerNorm(C)` where channels come last, (N, C) too; else `nn.GroupNorm(1, C)`.
    - "group": `nn.GroupNorm` with `num_groups`, or without it as many groups as divide C, at most 8 and of
      two channels at least (a group of a single value would be normalised to zero).
    - a callable: `norm(num_features, layer)` → module.

    `options` go to the layer's constructor. Raises InputError for an unknown name and SurgeryError for
    options that the layer does not take.
    """
    weight = next((p for p in layer.parameters() if p.is_floating_point()), torch.empty(0))
    devices = [weight.device] if weight.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            made = norm(signal.features, layer) if callable(norm) else _named(norm, signal, options)
    except (TypeError, ValueError) as error:
        raise SurgeryError(f"cannot make norm {norm!r} for {layer}: {error}") from error
    if not isinstance(made, nn.Module):
        raise SurgeryError(f"norm must make an nn.Module, got {type(made).__name__}")
    return made.to(device=weight.device, dtype=weight.dtype).train(layer.training)


def check_norm(norm: Norm, options: dict[str, Any]) -> None:
    """Raise InputError unless `norm` is a known name or a callable, the latter without options."""
    if callable(norm):
        if options:
            raise InputError(
                f"options go with a norm's name, got {', '.join(options)} beside a callable; set them in it"
            )
    elif norm not in NAMES:
        raise InputError(
            f"norm must be one of {', '.join(NAMES)} or a callable, got {norm!r}{did_you_mean(norm, NAMES)}"
        )


def group_count(features: int) -> int:
    """The largest number of groups up to 8 that divides `features` into groups of two or more; else 1.

    >>> [group_count(features) for features in (64, 100, 7, 12, 2)]
    [8, 5, 1, 6, 1]
    """
    fitting = (groups for groups in range(_MOST_GROUPS, 1, -1) if features % groups == 0)
    return next((groups for groups in fitting if features // groups >= 2), 1)


def _named(name: str, signal: Signal, options: dict[str, Any]) -> nn.Module:
    if name == "layer" and (signal.channels_last or signal.spatial == 0):
        return made_of(nn.LayerNorm, signal.features, **options)
    if name in ("layer", "group"):
        groups = 1 if name == "layer" else options.get("num_groups", group_count(signal.features))
        rest = {key: value for key, value in options.items() if key != "num_groups"}
        return made_of(nn.GroupNorm, num_groups=groups, num_channels=signal.features, **rest)
    kind = {"batch": "BatchNorm", "renorm": "BatchRenorm"}[name]
    return made_of(getattr(layers, f"{kind}{max(signal.spatial, 1)}d"), signal.features, **options)


def made_of(kind: Callable[..., nn.Module], *arguments: Any, **settings: Any) -> nn.Module:
    """A layer with these settings.

    Raises:
        InputError: it has no such setting, with those that it has; or it cannot be made with a value.
    """
    groups = settings.get("num_groups", 1)
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
        raise InputError(f"num_groups: expected a positive whole number, got {groups!r}")
    try:
        return kind(*arguments, **settings)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            raise
        name, known = unknown[1], settings_of(kind)
        raise InputError(
            f"{getattr(kind, '__name__', kind)} has no setting {name!r}{did_you_mean(name, known)}; it takes "
            f"{', '.join(known)}"
        ) from error


def settings_of(kind: Any) -> list[str]:
    """The names of the settings that a layer's constructor takes, those of its bases too.

    >>> settings_of(nn.GroupNorm)
    ['num_groups', 'eps', 'affine', 'bias']
    """
    names = dict.fromkeys(
        name
        for base in kind.__mro__
        if issubclass(base, nn.Module) and base is not nn.Module and "__init__" in vars(base)
        for name, parameter in inspect.signature(base).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    )
    return [name for name in names if name not in _NO_SETTING]
