"""What a forward does, as a graph: calls of modules and functions, and whose results each of them takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import nn

from normsmith.anatomy.kinds import (
    ACTIVATION_FUNCTIONS,
    NORM_FUNCTIONS,
    PASSING,
    PASSING_FUNCTIONS,
    PRODUCING_FUNCTIONS,
    RESHAPING_FUNCTIONS,
    is_activation,
    is_norm,
    is_producer,
)

Role = Literal["producer", "norm", "activation", "add", "passing", "other"]


@dataclass(frozen=True, eq=False)
class Event:
    """One call in a forward, or a tensor that calls take.

    - `kind`: "module" (the call of a layer, whose own calls are not looked at), "function", "input" of the model, or
      "parameter" (a tensor of the model that a function uses).
    - `path`: that of the module or the parameter; for a function that of the module whose forward calls it.
    - `name`: the module's class; the function's name without the underscores of its variants ("add", "relu").
    - `sources`: the events whose results the call takes, in the order of its arguments.
    - `shape`: that of its (first) result, where a real forward was followed.
    - `writes`: the events whose results the call overwrites, as `torch.relu_(x)` and `x += y` do.
    - `reads_written`: those of its sources that have overwritten a tensor which the call takes in the place of what
      they returned, as in `self.act(h); return self.layer(h)`.
    - `shares`: whether its result lies in the memory of an earlier one: a view, the same tensor, or one overwritten.
    """

    index: int
    kind: Literal["input", "parameter", "module", "function"]
    path: str
    name: str
    sources: tuple[Event, ...] = field(default=(), repr=False)
    module: nn.Module | None = field(default=None, repr=False)
    shape: tuple[int, ...] | None = None
    writes: tuple[Event, ...] = field(default=(), repr=False)
    reads_written: tuple[Event, ...] = field(default=(), repr=False)
    shares: bool = field(default=False, repr=False)

    @cached_property
    def role(self) -> Role:
        """What the call is for: "producer" (linear or convolution), "norm", "activation", "add", "passing"
        (keeps the channels: dropout, pooling, identity) or "other"."""
        if self.module is not None:
            return _role_of_module(self.module)
        if self.kind != "function":
            return "other"
        names: tuple[tuple[Role, set[str]], ...] = (
            ("activation", ACTIVATION_FUNCTIONS),
            ("norm", NORM_FUNCTIONS),
            ("producer", PRODUCING_FUNCTIONS),
            ("add", {"add"}),
            ("passing", PASSING_FUNCTIONS),
        )
        return next((role for role, known in names if self.name in known), "other")


@dataclass(frozen=True, eq=False)
class Residual:
    """A residual block: an addition of two results that come from one, x + f(x) or, with a projection g, g(x) + f(x).

    `start` is the event whose result is x, `add` the addition. `skip` and `branch` are the calls between them, in
    order; `skip` has fewer calls, none if x itself is added.
    """

    start: Event
    skip: tuple[Event, ...]
    branch: tuple[Event, ...]
    add: Event


@dataclass(frozen=True, eq=False)
class Graph:
    """The events of one forward in the order of the calls.

    - `outputs`: the events whose results the model returns.
    - `calls`: how often each module of the model is called, containers too; one that is missing is not called.
    - `followed`: by "symbols" (torch.fx, whatever the input) or by a "forward" of one batch.
    - `outputs_written`: the events that have overwritten a tensor which the model returns in the place of their result.
    """

    events: tuple[Event, ...]
    outputs: tuple[Event, ...]
    calls: Mapping[nn.Module, int]
    followed: Literal["symbols", "forward"]
    outputs_written: tuple[Event, ...] = ()

    def of(self, module: nn.Module) -> tuple[Event, ...]:
        """The calls of a module, in order."""
        return self._by_module.get(module, ())

    def having(self, role: Role) -> tuple[Event, ...]:
        """The calls with this role."""
        return tuple(event for event in self.events if event.role == role)

    def consumers(self, event: Event) -> tuple[Event, ...]:
        """The calls that take an event's result, in order."""
        return self._consumers.get(event, ())

    def is_output(self, event: Event) -> bool:
        """Whether the model returns an event's result, by itself or among others."""
        return event in self.outputs

    def is_used_elsewhere(self, event: Event) -> bool:
        """Whether an event's result goes to more than one call, or is returned by the model."""
        return len(self.consumers(event)) > 1 or self.is_output(event)

    def overwritten_by(self, event: Event) -> tuple[Event, ...]:
        """The calls that overwrite an event's result, in order."""
        return self._overwritten.get(event, ())

    def reader_of_written(self, event: Event) -> Event | None:
        """The first call that takes what an event has overwritten in the place of what it returned, if any.

        The event itself where the model returns that.
        """
        reader = self._readers_of_written.get(event)
        return event if reader is None and event in self.outputs_written else reader

    def is_called_once(self, module: nn.Module) -> bool:
        """Whether the forward calls a module exactly once."""
        return self.calls.get(module) == 1 and len(self.of(module)) == 1

    def producer(self, event: Event) -> Event | None:
        """The linear layer or convolution whose output channels are the channels of an event's input.

        Calls between them may be norms, activations and others that keep the channels, such as pooling. The channels
        of a linear layer come last, so reshapes of the other dimensions may follow it too. None where there is no
        such layer.
        """
        reshaped = False
        while event.sources and (len(event.sources) == 1 or _keeps_last(event)):
            event = event.sources[0]
            if event.role == "producer":
                return None if reshaped and not is_linear(event) else event
            reshaped = reshaped or _keeps_last(event)
            if event.role not in ("passing", "activation", "norm") and not _keeps_last(event):
                return None
        return None

    @cached_property
    def residuals(self) -> tuple[Residual, ...]:
        """The residual blocks, in the order of their additions."""
        return tuple(block for add in self.having("add") if (block := self._residual(add)) is not None)

    def _residual(self, add: Event) -> Residual | None:
        if len(add.sources) != 2 or add.sources[0] is add.sources[1]:
            return None
        one, other = add.sources
        common = self._with_ancestors(one) & self._with_ancestors(other)
        if not common:
            return None
        start = self.events[common.bit_length() - 1]
        ways = sorted((self._between(start, one), self._between(start, other)), key=len)
        return Residual(start, ways[0], ways[1], add)

    def _with_ancestors(self, event: Event) -> int:
        return self._ancestors[event.index] | 1 << event.index

    def _between(self, start: Event, end: Event) -> tuple[Event, ...]:
        """The calls on all ways from `start`, which is left out, to `end`."""
        on_the_way = self._with_ancestors(end)
        return tuple(
            event
            for event in self.events[start.index + 1 : end.index + 1]
            if on_the_way >> event.index & 1 and self._ancestors[event.index] >> start.index & 1
        )

    @cached_property
    def _ancestors(self) -> list[int]:
        """For each event the set of events that its result was computed from, as the bits of a number."""
        ancestors: list[int] = []
        for event in self.events:
            bits = 0
            for source in event.sources:
                bits |= ancestors[source.index] | 1 << source.index
            ancestors.append(bits)
        return ancestors

    @cached_property
    def _by_module(self) -> dict[nn.Module, tuple[Event, ...]]:
        calls = defaultdict[nn.Module, list[Event]](list)
        for event in self.events:
            if event.module is not None:
                calls[event.module].append(event)
        return {module: tuple(events) for module, events in calls.items()}

    @cached_property
    def _readers_of_written(self) -> dict[Event, Event]:
        readers: dict[Event, Event] = {}
        for event in self.events:
            for written in event.reads_written:
                readers.setdefault(written, event)
        return readers

    @cached_property
    def _overwritten(self) -> dict[Event, tuple[Event, ...]]:
        overwritten = defaultdict[Event, list[Event]](list)
        for event in self.events:
            for written in event.writes:
                overwritten[written].append(event)
        return {written: tuple(events) for written, events in overwritten.items()}

    @cached_property
    def _consumers(self) -> dict[Event, tuple[Event, ...]]:
        consumers = defaultdict[Event, list[Event]](list)
        for event in self.events:
            for source in dict.fromkeys(event.sources):
                consumers[source].append(event)
        return {source: tuple(events) for source, events in consumers.items()}


def _role_of_module(module: nn.Module) -> Role:
    if is_producer(module):
        return "producer"
    if is_norm(module):
        return "norm"
    if is_activation(module):
        return "activation"
    return "passing" if isinstance(module, PASSING) else "other"


def _keeps_last(event: Event) -> bool:
    """Whether an event is a reshape of the other dimensions that keeps the last one."""
    shapes = (event.shape, event.sources[0].shape) if event.sources else (None, None)
    known = all(shape is not None and len(shape) > 1 for shape in shapes)
    return known and event.name in RESHAPING_FUNCTIONS and shapes[0][-1] == shapes[1][-1]  # type: ignore[index]


def is_linear(event: Event) -> bool:
    """Whether an event is the call of a linear layer, whose channels come last."""
    return isinstance(event.module, nn.Linear) or event.name == "linear"
