"""The ways between the calls of a norm and those of the producers beside it, or what stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from normsmith._torch import Dropout, parameters_of
from normsmith.anatomy.aliasing import overwritten_after
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.moves import moves_by_name
from normsmith.surgery.operations.fold.calls import Call, Calls
from normsmith.surgery.operations.fold.obstacles import Owners

_SAME_VALUES = {"contiguous", "clone", "detach"}
_SHAPE_READERS = {"reshape_as", "view_as", "expand_as", "type_as"}


@dataclass(frozen=True)
class Way:
    """How a call of a norm and one of a producer are connected: the events between the two, in their order."""

    norm: Call
    between: tuple[Event, ...]
    producer: Call


@dataclass(frozen=True)
class Obstacle:
    """Why a norm is not folded to one side: a reason, or what stands there in the place of a producer (`stops_at`)."""

    reason: str = ""
    stops_at: str = ""


class Ways:
    """Follows data from a norm to producers, back and ahead, through what passes its numbers on.

    `folded`: the calls of norms that will be folded, which pass numbers on then.
    """

    def __init__(self, graph: Graph, owners: Owners, calls: Calls) -> None:
        self._graph, self._owners, self._calls = graph, owners, calls
        self.folded: set[Event] = set()

    def back(self, calls: Sequence[Call]) -> list[Way] | Obstacle:
        """The ways back to the calls of producers whose results are a norm's inputs and go nowhere else."""
        ways: list[Way] = []
        for call in calls:
            way = self._way_back(call)
            if isinstance(way, Obstacle):
                return way
            ways.append(way)
        on_the_way = [event for way in ways for event in (*reversed(way.between), way.producer.end)]
        known = {event for call in calls for event in call.inner} | set(on_the_way)
        for event in on_the_way:
            others = [consumer for consumer in self._consumers_of(event) if consumer not in known]
            if others:
                return Obstacle(f"{label(others[0])} takes what {label(event)} puts out as well")
            if self._graph.is_output(event):
                return Obstacle(f"what {label(event)} puts out is an output of the model too")
        return ways

    def _way_back(self, call: Call) -> Way | Obstacle:
        event, between = call.entry, list[Event]()
        against = next(filter(None, map(_reads_written, call.inner)), None)
        while True:
            producer = self._calls.producer(event)
            if producer is not None and producer.end is event:
                return Way(call, tuple(reversed(between)), producer)
            if not self._passes(event):
                return self._stopped(event)
            if against is not None:
                return against
            between.append(event)
            against, event = _reads_written(event), event.sources[0]

    def ahead(self, calls: Sequence[Call]) -> list[Way] | Obstacle:
        """The ways ahead to all calls that take a norm's results, which all are of producers."""
        ways: list[Way] = []
        for call in calls:
            writer = overwritten_after(self._graph, call.entry, call.end)
            if writer is not None:
                return Obstacle(f"{label(writer)} overwrites in place what it takes")
            ahead = self._ways_ahead(call, call.end, ())
            if isinstance(ahead, Obstacle):
                return ahead
            ways += ahead
        return ways

    def _ways_ahead(self, call: Call, event: Event, between: tuple[Event, ...]) -> list[Way] | Obstacle:
        """The ways from an event, the last of those between."""
        if self._graph.is_output(event):
            return Obstacle(stops_at="the model's output")
        consumers, ways = self._consumers_of(event), list[Way]()
        if not consumers:
            return Obstacle(stops_at="nothing")
        for consumer in consumers:
            against = _reads_written(consumer)
            if against is not None:
                return against
            producer = self._calls.producer(consumer)
            if producer is not None:
                ways.append(Way(call, between, producer))
                continue
            if not self._passes(consumer):
                several = Obstacle(stops_at=" and ".join(map(label, consumers)))
                return several if len(consumers) > 1 else self._stopped(consumer)
            ahead = self._ways_ahead(call, consumer, (*between, consumer))
            if isinstance(ahead, Obstacle):
                return ahead
            ways += ahead
        return ways

    def _stopped(self, event: Event) -> Obstacle:
        """That something stands in a producer's place."""
        name = label(event)
        if event.role == "producer" and event.module is None:
            layer = self._owners.modules.get(event.path)
            if layer is None or not any(name.startswith("weight") for name in parameters_of(layer)):
                return Obstacle(f"{name} is called as a function; make it a module")
            return Obstacle(
                f"{event.path} is a {type(layer).__name__} with a forward of its own, which may do more than a plain "
                "layer"
            )
        if event.shape is None and moves_by_name(event.name, event.module):
            return Obstacle(f"{name} moves channels by a shape that is not known without data; give a batch")
        return Obstacle(stops_at=name)

    def _passes(self, event: Event) -> bool:
        """Whether it puts out, in evaluation, the numbers it takes."""
        if not event.sources:
            return False
        if event in self.folded or isinstance(event.module, (nn.Identity, Dropout)):
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


def _reads_written(event: Event) -> Obstacle | None:
    """That a call takes a tensor that another has overwritten, not what that one returned."""
    if not event.reads_written:
        return None
    return Obstacle(f"{label(event)} reads what {label(event.reads_written[0])} has overwritten in place")


def label(event: Event) -> str:
    """An event in words."""
    if event.kind == "module":
        return f"{event.path} ({event.name})"
    if event.kind == "input":
        return "the model's input"
    return f"the function {event.name}" + (f" in {event.path}" if event.path else "")
