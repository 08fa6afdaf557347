"""Search a graph for the places of norms before or after its activations, residual blocks in mind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from normsmith.anatomy.describe import label
from normsmith.anatomy.graph import Event, Graph, is_recurrent
from normsmith.anatomy.passing import effective_consumers, effective_source, norm_after, norm_before
from normsmith.anatomy.read_batch_norm import fused_activation
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.residual import branch_ends, identity_skips
from normsmith.anatomy.select import Only, selected
from normsmith.surgery.placement.places import Place, Places, gates, hidden_events

_R = TypeVar("_R", bound=Remark)


def hidden_activations(graph: Graph) -> tuple[Event, ...]:
    """The activations, modules and functions, that layers with weights follow, gates left out.

    >>> from torch import nn
    >>> from normsmith.surgery import trace
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2), nn.Sigmoid())
    >>> [event.name for event in hidden_activations(trace(model))]
    ['Tanh']
    """
    hidden = hidden_events(graph) - gates(graph)
    return tuple(event for event in graph.having("activation") if event in hidden)


@dataclass
class Search:
    """For every activation of a graph the places for norms before or after it, or the reasons why there are none.

    `where` is "before" or "after". `run` fills `places`, `refusals` (activations that should get a norm and cannot)
    and `kept` (those that should get none).
    """

    places_of: Places
    where: str
    only: Only
    refusals: list[Refusal] = field(default_factory=list)
    kept: list[Remark] = field(default_factory=list)
    _places: dict[tuple[str, str], Place] = field(default_factory=dict)

    @property
    def places(self) -> list[Place]:
        """The places, one for each host and side."""
        return list(self._places.values())

    def run(self) -> None:
        """Look at every activation that is wanted."""
        for event in self.places_of.graph.events:
            fused = fused_activation(event.module) if event.role == "norm" and event.module else None
            if (event.role == "activation" or is_recurrent(event) or fused) and self._is_wanted(event):
                self._look_at(event, fused)

    def _is_wanted(self, event: Event) -> bool:
        locations = self.places_of.locations
        if self.only is None:
            return True
        module = event.module or next(m for m, paths in locations.paths.items() if event.path in paths)
        return bool(selected({module: locations.paths[module]}, self.only, None, None))

    def _look_at(self, event: Event, fused: str | None) -> None:
        if event not in self.places_of.hidden:
            _note(self.kept, event, Remark(event.path, f"{event.name} is the network's output"))
            return
        if fused:
            reason = f"its activation, {fused}, is in one layer with a norm already; strip the norms first"
            _note(self.refusals, event, Refusal(event.path, reason))
            return
        if event in self.places_of.gates:
            reason = f"{event.name} is a gate: its result only multiplies another"
            _note(self.kept, event, Remark(event.path, reason))
            return
        results = list(self.before(event) if self.where == "before" else self.after(event))
        refusals = [result for result in results if isinstance(result, Refusal)]
        for refusal in refusals:
            _note(self.refusals, event, refusal)
        if refusals:
            return
        for place in results:
            if isinstance(place, Place):
                self._places.setdefault((place.host, place.side), place)

    def before(self, event: Event) -> Iterator[Place | Refusal]:
        """The places for norms of an activation's input, or why there are none."""
        source = event.sources[0]
        if is_recurrent(event):
            yield Refusal(
                event.path,
                f"the activations of {event.name} are inside it; take normsmith's BatchNormLSTM or BatchNormGRU for "
                "it, or where='after' to normalise what it puts out",
            )
            return
        top, norm = effective_source(source), norm_before(source)
        if norm is not None:
            yield Refusal(event.path, f"{label(norm)} is before it already; strip the norms first")
        elif top.role == "add" and not self._is_used_on_the_way(source, top):
            yield from self._at_branches(event, top)
        else:
            yield self.between(source, event, _feeds(self.places_of, event))

    def _at_branches(self, event: Event, add: Event) -> Iterator[Place | Refusal]:
        """The places at the ends of the branches that an addition closes: x + norm(f(x))."""
        ends = dict(self._ends(add))
        norm = next((norm for end in ends if (norm := norm_before(end)) is not None), None)
        if norm is not None:
            reason = f"{label(norm)} is before it already, in a branch of the addition; strip the norms first"
            yield Refusal(event.path, reason)
            return
        layers = [end for end in ends if effective_source(end).role == "producer"]
        for end in layers:
            why = f"{label(effective_source(end))} ends a branch of a residual block: x + norm(f(x))"
            yield self.between(end, ends[end], why)
        if not layers:
            yield self.between(event.sources[0], event, "after an addition: norm(x + f(x))")

    def _ends(self, add: Event) -> Iterator[tuple[Event, Event]]:
        """The ends of the branches of a sum of two or more, each with the addition that takes it."""
        for end in branch_ends(self.places_of.graph, add):
            top = effective_source(end)
            if top.role == "add" and not self._is_used_on_the_way(end, top):
                yield from self._ends(top)
            else:
                yield end, add

    def after(self, event: Event) -> Iterator[Place | Refusal]:
        """The places for norms of an activation's output, or why there are none."""
        graph = self.places_of.graph
        norm = norm_after(graph, event)
        if norm is not None:
            yield Refusal(event.path, f"{label(norm)} is after it already; strip the norms first")
            return
        skips = identity_skips(graph, event)
        if not skips:
            place = self._right_after(event)
            if isinstance(place, Place) or not graph.consumers(event):
                yield place
                return
        begins = "it begins the branch of a residual block: x + f(norm(x))"
        results = list(self._before_each(event, skips, begins if skips else _after(self.places_of, event)))
        yield from results or [Refusal(event.path, f"what {label(event)} puts out goes to additions alone")]

    def _before_each(self, event: Event, skips: frozenset[Event], why: str) -> Iterator[Place | Refusal]:
        """A place before each call that takes an event's result, those left out that are skips or only lead to them."""
        graph = self.places_of.graph
        for consumer in graph.consumers(event):
            if consumer in skips:
                continue
            leads_to_skip = consumer.keeps_channels and not skips.isdisjoint(
                effective_consumers(graph, consumer)
            )
            splits = (
                consumer.keeps_channels and consumer.kind == "function" and graph.is_used_elsewhere(consumer)
            )
            if leads_to_skip or (splits and not graph.is_output(consumer)):
                yield from self._before_each(consumer, skips, why)
            else:
                yield self.places_of.before(consumer, event, why)

    def _right_after(self, event: Event) -> Place | Refusal:
        why = _after(self.places_of, event)
        consumers = self.places_of.graph.consumers(event)
        identity = self.places_of.replacing(consumers[0], why) if len(consumers) == 1 else None
        return identity or self.places_of.after(event, why)

    def between(self, source: Event, event: Event, why: str) -> Place | Refusal:
        """A place between two events: an identity's, among the children of a Sequential, or on one of the two."""
        alone = not self.places_of.graph.is_used_elsewhere(source)
        identity = self._identity(source, why) if alone else None
        if identity is not None:
            return identity
        after: Place | Refusal
        if alone:
            after = self.places_of.after(source, why)
        else:
            reason = f"what {label(source)} puts out goes to others too, which a norm must not change"
            after = Refusal(source.path, reason)
        if event.role != "activation":
            return after
        before = self.places_of.before(event, source, why)
        places = [place for place in (before, after) if isinstance(place, Place)]
        refusal = after if event.module is None else before
        return next((place for place in places if place.in_sequence), places[-1] if places else refusal)

    def _identity(self, source: Event, why: str) -> Place | None:
        """The place of an identity above an event, of several the one nearest to the layer."""
        nearest = None
        while source.keeps_channels:
            nearest = self.places_of.replacing(source, why) or nearest
            source = source.sources[0]
            if self.places_of.graph.is_used_elsewhere(source):
                break
        return nearest

    def _is_used_on_the_way(self, source: Event, top: Event) -> bool:
        """Whether the result of an event from `top` down to `source` is used elsewhere as well."""
        while True:
            if self.places_of.graph.is_used_elsewhere(source):
                return True
            if source is top:
                return False
            source = source.sources[0]


def _note(notes: list[_R], event: Event, remark: _R) -> None:
    """Add a remark, said of the activation, once."""
    where = "" if event.kind == "module" else f"the function {event.name}: "
    noted = replace(remark, path=event.path, reason=where + remark.reason)
    if noted not in notes:
        notes.append(noted)


def _feeds(places: Places, event: Event) -> str:
    producer = places.graph.producer(event)
    return f"{label(producer)} feeds {label(event)}" if producer is not None else f"before {label(event)}"


def _after(places: Places, event: Event) -> str:
    producer = places.graph.producer(event)
    fed = f", which {label(producer)} feeds" if producer is not None else ""
    return f"after {label(event)}{fed}"
