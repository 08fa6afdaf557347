"""Which linear layer or convolution can do a batch norm's work, or the reason why none can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import nn

from normsmith._torch import Dropout, buffers_of, children_of, parameters_of
from normsmith.anatomy.batch_norms import BatchNorm
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.kinds import RESHAPING_FUNCTIONS, is_sequential
from normsmith.anatomy.remark import Refusal
from normsmith.surgery.operations.fold.obstacles import Fold, Owners, foldable_norm, obstacle

_SAME_VALUES = {"contiguous", "clone", "detach"}
_SHAPE_READERS = {"reshape_as", "view_as", "expand_as", "type_as"}


@dataclass(frozen=True)
class _Calls:
    """What a norm consists of in a forward: the event it takes, its own calls, and the last of them."""

    entry: Event
    inner: frozenset[Event]
    end: Event


@dataclass(frozen=True)
class _Obstacle:
    """Why a norm is not folded to one side: a reason, or what stands there in the place of a producer (`stops_at`)."""

    reason: str = ""
    stops_at: str = ""


class Partners:
    """Finds for each norm its partner: the producer that can do its work. Norms come in the order of the forward."""

    def __init__(self, graph: Graph, owners: Owners) -> None:
        self._graph, self._owners = graph, owners
        self._folded: set[Event] = set()

    def find(self, norms: Iterable[nn.Module]) -> dict[nn.Module, Fold | Refusal]:
        """For each norm how to fold it, or the reason why it cannot be."""
        calls = {norm: self._calls(norm) for norm in norms}

        def position(norm: nn.Module) -> int:
            its = calls[norm]
            return -1 if isinstance(its, Refusal) else its.end.index

        partners = {norm: self._one(norm, calls[norm]) for norm in sorted(calls, key=position)}
        return {norm: partners[norm] for norm in calls}

    def _one(self, module: nn.Module, calls: _Calls | Refusal) -> Fold | Refusal:
        norm = foldable_norm(module, self._owners.locations)
        if isinstance(norm, Refusal):
            return norm
        if isinstance(calls, Refusal):
            return calls
        fold = self._after(norm, calls)
        if isinstance(fold, _Obstacle):
            against, fold = fold, self._before(norm, calls)
            if isinstance(fold, _Obstacle):
                return Refusal(self._owners.path(module), _together(against, fold))
        if norm.activation is None and len(calls.inner) == 1:
            self._folded.add(calls.end)
        return fold

    def _calls(self, norm: nn.Module) -> _Calls | Refusal:
        path, number = self._owners.path(norm), self._graph.calls.get(norm, 0)
        if number == 0:
            return Refusal(path, "this forward does not come by it")
        if number > 1:
            return Refusal(path, f"it is called {number} times in a forward")
        own = self._graph.of(norm) or self._functions.get(path, ())
        inner = frozenset(own)
        sources = {s for e in inner for s in e.sources if s not in inner and s.kind != "parameter"}
        ends = [e for e in own if self._graph.is_output(e) or set(self._graph.consumers(e)) - inner]
        if len(sources) != 1 or len(ends) > 1:
            reason = (
                f"it is called with {len(sources)} tensors (beside its input a mask, weights or a residual)"
            )
            return Refusal(path, reason)
        if any(set(self._graph.consumers(parameter)) - inner for parameter in self._read(norm)):
            return Refusal(path, "its tensors are used outside of its own forward")
        return _Calls(next(iter(sources)), inner, ends[0] if ends else own[-1])

    @cached_property
    def _functions(self) -> dict[str, tuple[Event, ...]]:
        by_path: dict[str, tuple[Event, ...]] = {}
        for event in self._graph.events:
            if event.kind == "function":
                by_path[event.path] = (*by_path.get(event.path, ()), event)
        return by_path

    @cached_property
    def _used(self) -> dict[str, Event]:
        return {event.path: event for event in self._graph.events if event.kind == "parameter"}

    def _read(self, module: nn.Module) -> list[Event]:
        """Tensors of a module that functions use."""
        names = [*parameters_of(module), *buffers_of(module)]
        paths = [f"{path}.{name}" for path in self._owners.locations.paths[module] for name in names]
        return [self._used[path] for path in paths if path in self._used]

    def _after(self, norm: BatchNorm, calls: _Calls) -> Fold | _Obstacle:
        """Into the producer whose output is the norm's input and goes nowhere else."""
        event, consumers, between = calls.entry, calls.inner, list[Event]()
        while True:
            is_producer = event.role == "producer"
            if not (is_producer or self._passes(event)):
                return _Obstacle(stops_at=_label(event))
            others = [consumer for consumer in self._consumers_of(event) if consumer not in consumers]
            if others:
                return _Obstacle(f"{_label(others[0])} takes what {_label(event)} puts out as well")
            if self._graph.is_output(event):
                return _Obstacle(f"what {_label(event)} puts out is an output of the model too")
            if is_producer:
                return self._fold(norm, calls, event, between, "after")
            between.append(event)
            event, consumers = event.sources[0], frozenset({event})

    def _before(self, norm: BatchNorm, calls: _Calls) -> Fold | _Obstacle:
        """Into the producer that alone takes the norm's output."""
        if norm.activation is not None:
            return _Obstacle(stops_at=f"its own activation, {norm.activation}")
        event, between = calls.end, list[Event]()
        while True:
            consumers = self._consumers_of(event)
            if self._graph.is_output(event):
                return _Obstacle(stops_at="the model's output")
            if len(consumers) != 1:
                return _Obstacle(stops_at=" and ".join(map(_label, consumers)) or "nothing")
            if consumers[0].role == "producer":
                return self._fold(norm, calls, consumers[0], between, "before")
            if not self._passes(consumers[0]):
                return _Obstacle(stops_at=_label(consumers[0]))
            event = consumers[0]
            between.append(event)

    def _fold(
        self,
        norm: BatchNorm,
        calls: _Calls,
        event: Event,
        between: list[Event],
        side: Literal["after", "before"],
    ) -> Fold | _Obstacle:
        """The fold into the producer called at `event`, or what is against it."""
        producer = event.module
        if producer is None:
            return _Obstacle(f"{_label(event)} is called as a function; make it a module")
        known = calls.entry.shape is not None or norm.dimensions in (2, 3)
        fold = Fold(norm.module, producer, side, None if known else _dimensions(producer))
        path, number = self._owners.path(producer), self._graph.calls.get(producer, 0)
        if number != 1:
            return _Obstacle(f"{path} is used at {number} places of a forward, and all of them would change")
        if not self._fits(norm, calls, event, between, side):
            return _Obstacle(f"its channels are not in the dimension in which {path} has its own")
        reason = obstacle(fold, norm, self._owners, [e.module for e in between if e.module is not None])
        if reason is None and self._read(producer):
            reason = f"the weights of {path} are used outside of its own forward"
        reason = reason or self._left_out(norm.module, producer)
        return fold if reason is None else _Obstacle(reason)

    def _fits(self, norm: BatchNorm, calls: _Calls, event: Event, between: list[Event], side: str) -> bool:
        """Whether the norm's channels, in dimension 1, are those of the producer: last of a linear layer's."""
        assert event.module is not None
        expected, linear = _dimensions(event.module), isinstance(event.module, nn.Linear)
        if calls.entry.shape is None:
            return (
                norm.dimensions is None
                or norm.dimensions + 2 == expected
                or (linear and norm.dimensions == 1)
            )
        if side == "before":
            shape, keeps = event.sources[0].shape, _keeps_leading
        elif linear:
            shape, keeps = calls.entry.shape, _keeps_last
        else:
            shape, keeps = event.shape, _keeps_leading
        return shape is not None and len(shape) == expected and all(map(keeps, filter(_is_reshape, between)))

    def _passes(self, event: Event) -> bool:
        """Whether it puts out, in evaluation, the numbers it takes."""
        if not event.sources:
            return False
        if event in self._folded or isinstance(event.module, (nn.Identity, Dropout)):
            return True
        same = event.kind == "function" and event.name in _SAME_VALUES
        return same or (_is_reshape(event) and event.shape is not None)

    def _consumers_of(self, event: Event) -> tuple[Event, ...]:
        """The calls that take the values of a result, not its shape alone."""

        def reads_shape(consumer: Event) -> bool:
            return (
                consumer.kind == "function"
                and consumer.name in _SHAPE_READERS
                and consumer.sources[0] is not event
            )

        return tuple(consumer for consumer in self._graph.consumers(event) if not reads_shape(consumer))

    def _left_out(self, norm: nn.Module, producer: nn.Module) -> str | None:
        """What one forward did not call, beside the two: for other inputs the data may go that way."""
        if self._graph.followed == "symbols":
            return None
        scope = self._owners.scope(norm, producer)
        while scope and self._graph.calls.get(self._owners.modules[scope], 0) == 0:
            scope = scope.rpartition(".")[0]
        holder = self._owners.modules[scope]
        if is_sequential(holder):
            return None
        if scope not in self._uncalled:
            self._uncalled[scope] = next(self._uncalled_in(holder, scope), None)
        missing = self._uncalled[scope]
        if missing is None:
            return None
        return f"{type(holder).__name__} did not call {missing} for this batch, and may go another way for others"

    @cached_property
    def _uncalled(self) -> dict[str, str | None]:
        return {}

    def _uncalled_in(self, module: nn.Module, path: str) -> Iterator[str]:
        """Modules with tensors of their own that the forward did not come by."""
        for name, child in children_of(module).items():
            if child is None or self._graph.of(child):
                continue
            inner = f"{path}.{name}" if path else name
            tensors = (*parameters_of(child).values(), *buffers_of(child).values())
            if child not in self._graph.calls and any(tensor is not None for tensor in tensors):
                yield inner
            yield from self._uncalled_in(child, inner)


def _together(after: _Obstacle, before: _Obstacle) -> str:
    if after.stops_at and before.stops_at:
        return (
            f"it stands between {after.stops_at} and {before.stops_at}: beside no linear layer or convolution that "
            "could do its work"
        )
    return "; ".join(reason for reason in (after.reason, before.reason) if reason)


def _dimensions(producer: nn.Module) -> int:
    """Of the input of a producer whose channels are where a norm's are."""
    return 2 if isinstance(producer, nn.Linear) else 2 + len(producer.kernel_size)  # type: ignore[arg-type]


def _is_reshape(event: Event) -> bool:
    is_function = event.kind == "function" and event.name in RESHAPING_FUNCTIONS
    return is_function or type(event.module) in (nn.Flatten, nn.Unflatten)


def _keeps_last(event: Event) -> bool:
    before, after = event.sources[0].shape, event.shape
    return bool(before and after) and before[-1] == after[-1]  # type: ignore[index]


def _keeps_leading(event: Event) -> bool:
    before, after = event.sources[0].shape, event.shape
    return before is not None and after is not None and before[:2] == after[:2] and len(after) > 1


def _label(event: Event) -> str:
    if event.kind == "module":
        return f"{event.path} ({event.name})"
    if event.kind == "input":
        return "the model's input"
    return f"the function {event.name}" + (f" in {event.path}" if event.path else "")
