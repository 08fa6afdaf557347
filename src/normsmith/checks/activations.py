"""How active and how saturated the units of each activation are: measured while the model runs, nothing is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normsmith._torch import backward_number, has_function_transforms
from normsmith.anatomy.graph import Event, Graph, channel_dimension
from normsmith.anatomy.kinds import plain_name

CUT = ("relu", "relu6")
"""Activations that are 0 below 0."""
FLAT = {"sigmoid": 5.0, "tanh": 2.5}
"""Beyond which input an activation is flat: its slope is below 3 % of its greatest. tanh(x) is 2·sigmoid(2x) − 1."""

Key = tuple[str, str, int]
"""A call of an activation in a forward: the path of the module that makes it, its name, and which of such calls."""


@dataclass(frozen=True, eq=False)
class Activation:
    """What the units of an activation did in all batches; tensors of shape (units,) in float64 on the CPU.

    - `event`: the call in the graph.
    - `values`: how many values of a unit came in all.
    - `active`: the largest share of a unit's values above 0 in any batch.
    - `flat`: the smallest share of a unit's values in the flat part in any batch; 0 where there is none.
    """

    event: Event
    values: int
    active: Tensor
    flat: Tensor


@dataclass(eq=False)
class _Tally:
    """What is known so far of a call, on the device of the model."""

    values: int
    active: Tensor
    flat: Tensor


class ActivationMeter(TorchFunctionMode):
    """Looks at what reaches activations, modules and functions alike, while a copy of a model runs.

    The graph, which is that of the model, tells where units are in a tensor; calls that it does not know are passed by.
    """

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        super().__init__()
        self._model = model
        self._events = dict(_keys(graph))
        self._paths = {module: path for path, module in model.named_modules()}
        self._open: list[str] = []
        self._calls: Counter[tuple[str, str]] = Counter()
        self._tallies: dict[Key, _Tally] = {}

    @property
    def measured(self) -> tuple[Activation, ...]:
        """Every activation that was called, in the order of the graph."""
        return tuple(
            Activation(event, tally.values, tally.active.double().cpu(), tally.flat.double().cpu())
            for key, event in self._events.items()
            if (tally := self._tallies.get(key)) is not None
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A block in which activations are measured."""
        with ExitStack() as stack:
            for module in self._model.modules():
                if not isinstance(module, torch.jit.ScriptModule):
                    stack.callback(module.register_forward_pre_hook(self._enter).remove)
                    stack.callback(module.register_forward_hook(self._leave, always_call=True).remove)
            stack.enter_context(self)
            yield

    def _enter(self, module: nn.Module, _: Any) -> None:
        if not self._open:
            self._calls.clear()
        self._open.append(self._paths[module])

    def _leave(self, *_: Any) -> None:
        self._open.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func, args, kwargs)
        if self._open and (name in CUT or name in FLAT):
            x = args[0] if args else kwargs.get("input")
            if isinstance(x, Tensor) and backward_number() == -1 and not has_function_transforms():
                with torch.no_grad():  # before the call, which may be in place
                    self._look(name, x.detach())
        return func(*args, **kwargs)

    def _look(self, name: str, x: Tensor) -> None:
        key = (self._open[-1], name, self._calls[self._open[-1], name])
        self._calls[key[:2]] += 1
        event = self._events.get(key)
        dimension = None if event is None else channel_dimension(event)
        if dimension is None or x.ndim <= dimension or not x.numel():
            return
        units = x.movedim(dimension, 0).flatten(1)
        active = (units > 0).float().mean(1)
        flat = (units.abs() > FLAT[name]).float().mean(1) if name in FLAT else torch.zeros_like(active)
        before = self._tallies.get(key)
        if before is None or before.active.shape != active.shape:
            self._tallies[key] = _Tally(units.shape[1], active, flat)
            return
        before.values += units.shape[1]
        before.active = torch.maximum(before.active, active)
        before.flat = torch.minimum(before.flat, flat)


def _name(func: Any, args: Any, kwargs: Any) -> str:
    """The name of a function as the graph has it: the module ReLU6 calls hardtanh from 0 on."""
    name = plain_name(getattr(func, "__name__", ""))
    if name != "hardtanh":
        return name
    return "relu6" if (args[1] if len(args) > 1 else kwargs.get("min_val")) == 0 else name


def _keys(graph: Graph) -> Iterator[tuple[Key, Event]]:
    calls: Counter[tuple[str, str]] = Counter()
    for event in graph.having("activation"):
        called = (event.path, event.name.lower())
        yield (*called, calls[called]), event
        calls[called] += 1
