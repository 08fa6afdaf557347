"""Which linear layer or convolution can do a batch norm's work, or the reason why none can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import nn

from normsmith._torch import Dropout, buffers_of, children_of, parameters_of
from normsmith.anatomy.aliasing import overwritten_after
from normsmith.anatomy.batch_norms import BatchNorm
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.kinds import is_sequential
from normsmith.anatomy.linear_layers import read_linear
from normsmith.anatomy.moves import moves_by_name
from normsmith.anatomy.remark import Refusal
from normsmith.surgery.operations.fold.calls import Call, Calls
from normsmith.surgery.operations.fold.layout import keeps_the_batch_apart, repeats_between
from normsmith.surgery.operations.fold.obstacles import Fold, Owners, foldable_norm, obstacle, width

_SAME_VALUES = {"contiguous", "clone", "detach"}
_SHAPE_READERS = {"reshape_as", "view_as", "expand_as", "type_as"}
_Side = Literal["after", "before"]


@dataclass(frozen=True)
class _Way:
    """How a call of a norm and one of a producer are connected: the events between the two, in their order."""

    norm: Call
    between: tuple[Event, ...]
    producer: Call


@dataclass(frozen=True)
class _Obstacle:
    """Why a norm is not folded to one side: a reason, or what stands there in the place of a producer (`stops_at`)."""

    reason: str = ""
    stops_at: str = ""


class Partners:
    """Finds for each norm its partner: the producer that can do its work. Norms come in the order of the forward."""

    def __init__(self, graph: Graph, owners: Owners) -> None:
        self._graph, self._owners = graph, owners
        self._calls = Calls(graph, owners)
        self._folded: set[Event] = set()

    def find(self, norms: Iterable[nn.Module]) -> dict[nn.Module, Fold | Refusal]:
        """For each norm how to fold it, or the reason why it cannot be: in the order of the forward.

        Of several that are folded into one layer, one after the other, the order says what is scaled first.
        """
        calls = {norm: self._calls.of(norm) for norm in norms}

        def position(norm: nn.Module) -> int:
            its = calls[norm]
            return -1 if isinstance(its, Refusal) else its[0].end.index

        return {norm: self._one(norm, calls[norm]) for norm in sorted(calls, key=position)}

    def _one(self, module: nn.Module, calls: tuple[Call, ...] | Refusal) -> Fold | Refusal:
        norm = foldable_norm(module, self._owners.locations)
        if isinstance(norm, Refusal):
            return norm
        code = self._owners.locations.code
        if isinstance(calls, Refusal):
            by_hand = code.by_hand(module)
            return calls if by_hand is None else Refusal(calls.path, by_hand)
        fold = self._after(norm, calls)
        if isinstance(fold, _Obstacle):
            against, fold = fold, self._before(norm, calls)
            if isinstance(fold, _Obstacle):
                return Refusal(self._owners.path(module), _together(against, fold))
        if (read := code.why_bound(module, nn.Identity())) is not None:
            return Refusal(self._owners.path(module), read)
        if norm.activation is None and len(calls[0].inner) == 1:
            self._folded |= {call.end for call in calls}
        return fold

    def _after(self, norm: BatchNorm, calls: Sequence[Call]) -> Fold | _Obstacle:
        """Into the producer whose results are the norm's inputs and go nowhere else."""
        ways: list[_Way] = []
        for call in calls:
            way = self._way_back(call)
            if isinstance(way, _Obstacle):
                return way
            ways.append(way)
        on_the_way = [event for way in ways for event in (*reversed(way.between), way.producer.end)]
        known = {event for call in calls for event in call.inner} | set(on_the_way)
        for event in on_the_way:
            others = [consumer for consumer in self._consumers_of(event) if consumer not in known]
            if others:
                return _Obstacle(f"{_label(others[0])} takes what {_label(event)} puts out as well")
            if self._graph.is_output(event):
                return _Obstacle(f"what {_label(event)} puts out is an output of the model too")
        return self._fold(norm, ways, "after")

    def _way_back(self, call: Call) -> _Way | _Obstacle:
        event, between = call.entry, list[Event]()
        against = next(filter(None, map(_reads_written, call.inner)), None)
        while True:
            producer = self._calls.producer(event)
            if producer is not None and producer.end is event:
                return _Way(call, tuple(reversed(between)), producer)
            if not self._passes(event):
                return self._stopped(event)
            if against is not None:
                return against
            between.append(event)
            against, event = _reads_written(event), event.sources[0]

    def _before(self, norm: BatchNorm, calls: Sequence[Call]) -> Fold | _Obstacle:
        """Into the producer that alone takes the norm's results."""
        if norm.activation is not None:
            return _Obstacle(stops_at=f"its own activation, {norm.activation}")
        ways: list[_Way] = []
        for call in calls:
            writer = overwritten_after(self._graph, call.entry, call.end)
            if writer is not None:
                return _Obstacle(f"{_label(writer)} overwrites in place what it takes")
            ahead = self._ways_ahead(call, call.end, ())
            if isinstance(ahead, _Obstacle):
                return ahead
            ways += ahead
        return self._fold(norm, ways, "before")

    def _ways_ahead(self, call: Call, event: Event, between: tuple[Event, ...]) -> list[_Way] | _Obstacle:
        """The ways to all calls that take the results of a norm, all of producers."""
        if self._graph.is_output(event):
            return _Obstacle(stops_at="the model's output")
        consumers, ways = self._consumers_of(event), list[_Way]()
        if not consumers:
            return _Obstacle(stops_at="nothing")
        for consumer in consumers:
            against = _reads_written(consumer)
            if against is not None:
                return against
            producer = self._calls.producer(consumer)
            if producer is not None:
                ways.append(_Way(call, between, producer))
                continue
            if not self._passes(consumer):
                several = _Obstacle(stops_at=" and ".join(map(_label, consumers)))
                return several if len(consumers) > 1 else self._stopped(consumer)
            ahead = self._ways_ahead(call, consumer, (*between, consumer))
            if isinstance(ahead, _Obstacle):
                return ahead
            ways += ahead
        return ways

    def _stopped(self, event: Event) -> _Obstacle:
        """That something stands in a producer's place."""
        label = _label(event)
        if event.role == "producer" and event.module is None:
            layer = self._owners.modules.get(event.path)
            if layer is None or not any(name.startswith("weight") for name in parameters_of(layer)):
                return _Obstacle(f"{label} is called as a function; make it a module")
            return _Obstacle(
                f"{event.path} is a {type(layer).__name__} with a forward of its own, which may do more than a plain "
                "layer"
            )
        if event.shape is None and moves_by_name(event.name, event.module):
            return _Obstacle(
                f"{label} moves channels by a shape that is not known without data; give a batch"
            )
        return _Obstacle(stops_at=label)

    def _fold(self, norm: BatchNorm, ways: Sequence[_Way], side: _Side) -> Fold | _Obstacle:
        """The fold into the producer that all ways lead to, or what is against it."""
        producer, *others = dict.fromkeys(way.producer.module for way in ways)
        path = self._owners.path(producer)
        if others:
            names = " and ".join(self._owners.path(module) for module in (producer, *others))
            return _Obstacle(
                f"{names} stand beside it, and one alone would have to do its work for all calls"
            )
        number, seen = self._graph.calls.get(producer, 0), len({way.producer.end for way in ways})
        if number != seen:
            what = "send their results elsewhere" if side == "after" else "take something else"
            return _Obstacle(f"{path} is called {number} times in a forward, of which {number - seen} {what}")
        every = dict.fromkeys(self._repeats(norm, way, side) for way in ways)
        repeats = next((result for result in every if isinstance(result, _Obstacle)), next(iter(every)))
        if isinstance(repeats, _Obstacle):
            return repeats
        if len(every) > 1:
            return _Obstacle(f"its channels are not the same ones of {path} in each call")
        known = ways[0].norm.entry.shape is not None or norm.dimensions in (2, 3)
        dimensions = None if known else _dimensions(producer)
        same = repeats == 1 and (width(producer, side) == norm.features or not any(map(_moves, ways)))
        fold = Fold(norm.module, producer, side, dimensions, None if same else repeats)
        between = [event.module for way in ways for event in way.between if event.module is not None]
        reason = obstacle(fold, norm, self._owners, between)
        if reason is None and self._calls.uses_elsewhere(producer, [way.producer for way in ways]):
            reason = f"the weights of {path} are used outside of its own forward"
        reason = reason or self._left_out(norm.module, producer)
        return fold if reason is None else _Obstacle(reason)

    def _repeats(self, norm: BatchNorm, way: _Way, side: _Side) -> int | _Obstacle:
        """How many of the producer's channels in a row are one of the norm's, which are in dimension 1."""
        producer = way.producer.module
        path = self._owners.path(producer)
        elsewhere = _Obstacle(f"its channels are not in the dimension in which {path} has its own")
        expected, linear = _dimensions(producer), read_linear(producer) is not None
        if way.norm.entry.shape is None:
            fits = norm.dimensions is None or norm.dimensions + 2 == expected
            return 1 if fits or (linear and norm.dimensions == 1) else elsewhere
        first, last = (way.producer, way.norm) if side == "after" else (way.norm, way.producer)
        shape, layer_shape = first.end.shape, (way.producer.end if side == "after" else last.entry).shape
        if not shape or not layer_shape or not (linear or len(layer_shape) == expected):
            return elsewhere
        its = len(layer_shape) - 1 if linear else 1
        moves = _moves(way)
        if not moves and its == 1:
            return 1
        if shape[0] == 1 and not all(keeps_the_batch_apart(event, channels_last=linear) for event in moves):
            return _Obstacle(
                f"{_label(moves[0])} may mix the channels with the batch, which one sample does not show; give two"
            )
        dimensions = (its, 1) if side == "after" else (1, its)
        repeats = repeats_between(moves, shape, dimensions, width(producer, side), norm.features, side)
        return elsewhere if repeats is None else repeats

    def _passes(self, event: Event) -> bool:
        """Whether it puts out, in evaluation, the numbers it takes."""
        if not event.sources:
            return False
        if event in self._folded or isinstance(event.module, (nn.Identity, Dropout)):
            return True
        same = event.kind == "function" and event.name in _SAME_VALUES
        return same or event.move is not None

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


def _reads_written(event: Event) -> _Obstacle | None:
    """That a call takes a tensor that another has overwritten, not what that one returned."""
    if not event.reads_written:
        return None
    return _Obstacle(f"{_label(event)} reads what {_label(event.reads_written[0])} has overwritten in place")


def _moves(way: _Way) -> list[Event]:
    return [event for event in way.between if event.move is not None]


def _dimensions(producer: nn.Module) -> int:
    """Of the input of a producer whose channels are where a norm's are."""
    return 2 if read_linear(producer) else 2 + len(producer.kernel_size)  # type: ignore[arg-type]


def _label(event: Event) -> str:
    if event.kind == "module":
        return f"{event.path} ({event.name})"
    if event.kind == "input":
        return "the model's input"
    return f"the function {event.name}" + (f" in {event.path}" if event.path else "")
