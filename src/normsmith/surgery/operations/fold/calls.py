"""The calls of a layer in a forward: what each takes, the functions it is made of, and where its result comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from normsmith._torch import buffers_of, parameters_of
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.linear_layers import read_linear
from normsmith.anatomy.remark import Refusal
from normsmith.surgery.operations.fold.obstacles import Owners


@dataclass(frozen=True)
class Call:
    """One call of a layer: the event whose result it takes, its own events, and the one whose result it returns."""

    module: nn.Module
    entry: Event
    inner: frozenset[Event]
    end: Event


class Calls:
    """Finds the calls of layers in a graph: single events, or functions where the class is not torch's or ours."""

    def __init__(self, graph: Graph, owners: Owners) -> None:
        self._graph, self._owners = graph, owners

    def of(self, module: nn.Module) -> tuple[Call, ...] | Refusal:
        """All calls of a layer, in order, or why it cannot be told what they take and return."""
        path, number = self._owners.path(module), self._graph.calls.get(module, 0)
        if number == 0:
            return Refusal(path, "this forward does not come by it")
        own = self._graph.of(module) or self._functions.get(path, ())
        size, rest = divmod(len(own), number)
        parts = [own[start : start + size] for start in range(0, len(own), size)] if size else [()]
        if rest or len({tuple(event.name for event in part) for part in parts}) > 1:
            return Refusal(path, f"its {number} calls in a forward do not compute the same")
        calls: list[Call] = []
        for part in parts:
            call = self._call(module, part)
            if isinstance(call, Refusal):
                return call
            calls.append(call)
        if self.uses_elsewhere(module, calls):
            return Refusal(path, "its tensors are used outside of its own forward")
        return tuple(calls)

    def _call(self, module: nn.Module, own: tuple[Event, ...]) -> Call | Refusal:
        inner = frozenset(own)
        sources = {s for e in own for s in e.sources if s not in inner and s.kind != "parameter"}
        ends = [e for e in own if self._graph.is_output(e) or set(self._graph.consumers(e)) - inner]
        if len(sources) != 1 or len(ends) > 1:
            reason = (
                f"it is called with {len(sources)} tensors (beside its input a mask, weights or a residual)"
            )
            return Refusal(self._owners.path(module), reason)
        return Call(module, next(iter(sources)), inner, ends[0] if ends else own[-1])

    def uses_elsewhere(self, module: nn.Module, calls: Iterable[Call]) -> bool:
        """Whether functions that belong to none of these calls use the layer's tensors."""
        inner = frozenset[Event]().union(*(call.inner for call in calls))
        names = [*parameters_of(module), *buffers_of(module)]
        paths = [f"{path}.{name}" for path in self._owners.locations.paths[module] for name in names]
        read = [self._reads_by_path[path] for path in paths if path in self._reads_by_path]
        return any(set(self._graph.consumers(parameter)) - inner for parameter in read)

    def producer(self, event: Event) -> Call | None:
        """The call of a linear layer or convolution that an event is, or is part of."""
        return self._producers.get(event)

    @cached_property
    def _producers(self) -> dict[Event, Call]:
        by_event: dict[Event, Call] = {}
        for event in self._graph.having("producer"):
            if event.module is not None and event.sources:
                by_event[event] = Call(event.module, event.sources[0], frozenset({event}), event)
        for path in self._functions:
            module = self._owners.modules.get(path)
            calls = () if module is None or read_linear(module) is None else self.of(module)
            if not isinstance(calls, Refusal):
                by_event |= {event: call for call in calls for event in call.inner}
        return by_event

    @cached_property
    def _functions(self) -> dict[str, tuple[Event, ...]]:
        by_path: dict[str, tuple[Event, ...]] = {}
        for event in self._graph.events:
            if event.kind == "function":
                by_path[event.path] = (*by_path.get(event.path, ()), event)
        return by_path

    @cached_property
    def _reads_by_path(self) -> dict[str, Event]:
        return {event.path: event for event in self._graph.events if event.kind == "parameter"}
