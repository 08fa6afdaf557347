"""Layers described in one line, as plans show them, and calls, as reasons name them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from normsmith._text import exact, some
from normsmith._torch import TorchBatchNorm
from normsmith.anatomy.graph import Event
from normsmith.anatomy.kinds import channels, is_producer
from normsmith.anatomy.linear_layers import read_linear
from normsmith.layers import DomainNorm
from normsmith.layers.domains import HasDomains
from normsmith.layers.schedules import PRESETS
from normsmith.layers.statistics import StatisticsBase


def describe_module(module: nn.Module) -> str:
    """Any module in one line: norms by their settings, others as they print themselves or by their class.

    >>> describe_module(nn.BatchNorm1d(4)), describe_module(nn.ReLU()), describe_module(nn.Sequential(nn.ReLU()))
    ('nn.BatchNorm1d(4)', 'ReLU()', 'Sequential')
    """
    if isinstance(module, (TorchBatchNorm, nn.GroupNorm, HasDomains)):
        return describe_layer(module)
    text = str(module)
    return type(module).__name__ if "\n" in text else text


def describe_layer(layer: Any) -> str:
    """A norm by its class, channels and unusual settings; a linear layer or convolution by its channels.

    >>> describe_layer(nn.BatchNorm2d(8)), describe_layer(nn.Conv2d(3, 8, 5))
    ('nn.BatchNorm2d(8)', 'Conv2d(3, 8)')
    """
    kind = type(layer).__name__
    if isinstance(layer, HasDomains):
        held: Any = layer
        norm = next(iter(held.norms.values())) if isinstance(layer, DomainNorm) else held.norm
        return f"{kind}({describe_layer(norm)}, {some(layer.domains, 4)})"
    linear = read_linear(layer)
    if linear is not None:
        return f"{kind}({linear.inputs}, {linear.outputs})"
    if is_producer(layer):
        return f"{kind}({layer.in_channels}, {channels(layer)})"
    features = getattr(layer, "num_features", getattr(layer, "num_channels", None))
    if features is None:
        mean = getattr(layer, "running_mean", None)
        features = 0 if mean is None else len(mean)
    parts = [str(features)] if features else []
    if isinstance(layer, nn.GroupNorm):
        parts.append(f"num_groups={layer.num_groups}")
    for name in ("ghost_batch_size", "process_group", "total_steps", "activation"):
        value = getattr(layer, name, None)
        if value is not None:
            parts.append(f"{name}={value!r}" if isinstance(value, (int, str)) else name)
    parts += _unusual(layer)
    if isinstance(layer, StatisticsBase) and layer.pinned is not None:
        parts.append("frozen")
    library = "nn." if type(layer).__module__.startswith("torch.nn.") else ""
    return f"{library}{kind}({', '.join(parts)})"


def label(event: Event) -> str:
    """A call in words by which a person finds it in the code.

    >>> label(Event(0, "function", "block", "relu"))
    'the function relu in the forward of block'
    """
    if event.kind == "module":
        return f"{event.name} {event.path}".rstrip()
    if event.kind == "input":
        return "the model's input"
    return f"the function {event.name} in the forward of {event.path or 'the model'}"


def _unusual(layer: Any) -> Iterator[str]:
    """The momentum and the renorm settings of a norm that are not those that a new one has."""
    momentum = getattr(layer, "momentum", 0.1)
    if momentum != 0.1:
        yield f"momentum={momentum if momentum is None else exact(momentum)}"
    schedule = getattr(layer, "schedule", None)
    if schedule is not None and layer.total_steps is None:
        names = (name for name, preset in PRESETS.items() if preset() == schedule)
        yield f"schedule={next(names, getattr(schedule, '__name__', type(schedule).__name__))}"
    if getattr(layer, "track", "var") != "var":
        yield f"track={layer.track}"
