"""Search a graph for the places of norms before or after its activations, residual blocks in mind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.residual import above, below, identity_skips
from normsmith.anatomy.select import Only, selected
from normsmith.surgery.placement.places import Place, Places, gates, is_recurrent, named, weighted


def hidden_activations(graph: Graph) -> tuple[Event, ...]:
    """The activations, modules and functions, that layers with weights follow, gates left out.

    >>> from torch import nn
    >>> from normsmith.surgery import trace
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2), nn.Sigmoid())
    >>> [event.name for event in hidden_activations(trace(model))]
    ['Tanh']
    """
    hidden = weighted(graph) - gates(graph)
    return tuple(event for event in graph.having("activation") if event in hidden)


@dataclass
class Search:
    """Every activation of a graph, with the places before or after it, or the reason why there is none."""

    at: Places
    where: str
    only: Only
    refusals: list[tuple[str, str]] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    _found: dict[tuple[str, str], Place] = field(default_factory=dict)

    @property
    def places(self) -> list[Place]:
        """One for each host and side."""
        return list(self._found.values())

    def run(self) -> None:
        """Look at all of them."""
        for event in self.at.graph.events:
            if (event.role == "activation" or is_recurrent(event)) and self._is_wanted(event):
                self._look_at(event)

    def _is_wanted(self, event: Event) -> bool:
        locations = self.at.locations
        if self.only is None:
            return True
        module = event.module or next(m for m, paths in locations.paths.items() if event.path in paths)
        return bool(selected({module: locations.paths[module]}, self.only, None, None))

    def _look_at(self, event: Event) -> None:
        if event not in self.at.hidden:
            self._note(self.kept, event, f"{event.name} is the network's output")
            return
        if event in self.at.gates:
            self._note(self.kept, event, f"{event.name} is a gate: its result only multiplies another")
            return
        found = list(self.before(event) if self.where == "before" else self.after(event))
        reasons = dict.fromkeys(reason for reason in found if isinstance(reason, str))
        for reason in reasons:
            self._note(self.refusals, event, reason)
        if reasons:
            return
        for place in found:
            if isinstance(place, Place):
                self._found.setdefault((place.host, place.side), place)

    def _note(self, notes: list[tuple[str, str]], event: Event, reason: str) -> None:
        where = "" if event.kind == "module" else f"the function {event.name}: "
        if (event.path, where + reason) not in notes:
            notes.append((event.path, where + reason))

    def before(self, event: Event) -> Iterator[Place | str]:
        """The places, or reasons, for norms of what an activation takes."""
        source = event.sources[0]
        if is_recurrent(event):
            yield (
                f"the activations of {event.name} are inside it; take normsmith's BatchNormLSTM or BatchNormGRU for "
                "it, or where='after' to normalise what it puts out"
            )
            return
        top = above(source)
        if top.role == "norm":
            yield f"{named(top)} is before it already; strip the norms first"
        elif top.role == "add" and not self._goes_on(source, top):
            yield from self._at_branches(event, top)
        else:
            yield self.between(source, event, _feeds(self.at, event))

    def _at_branches(self, event: Event, add: Event) -> Iterator[Place | str]:
        """At the ends of the branches that an addition closes: x + norm(f(x))."""
        tops = [above(source) for source in add.sources]
        normed = next((top for top in tops if top.role == "norm"), None)
        if normed is not None:
            yield f"{named(normed)} is before it already, in a branch of the addition; strip the norms first"
            return
        ends = [s for s, top in zip(add.sources, tops, strict=True) if top.role == "producer"]
        for end in ends:
            why = f"{named(above(end))} ends a branch of a residual block: x + norm(f(x))"
            yield self.between(end, add, why)
        if not ends:
            yield self.between(event.sources[0], event, "after an addition: norm(x + f(x))")

    def after(self, event: Event) -> Iterator[Place | str]:
        """The places, or reasons, for norms of what an activation puts out."""
        normed = next((e for e in below(self.at.graph, event) if e.role == "norm"), None)
        if normed is not None:
            yield f"{named(normed)} is after it already; strip the norms first"
            return
        skips = identity_skips(self.at.graph, event)
        consumers = [e for e in self.at.graph.consumers(event) if not skips & {e, *self._passed_on(e)}]
        if not skips:
            place = self._place_behind(event)
            if isinstance(place, Place) or not consumers:
                yield place
                return
        for consumer in consumers:
            why = (
                "it begins the branch of a residual block: x + f(norm(x))"
                if skips
                else _behind(self.at, event)
            )
            yield self.at.before(consumer, event, why)

    def _place_behind(self, event: Event) -> Place | str:
        why = _behind(self.at, event)
        consumers = self.at.graph.consumers(event)
        free = self.at.replacing(consumers[0], why) if len(consumers) == 1 else None
        return free or self.at.after(event, why)

    def _passed_on(self, event: Event) -> Iterable[Event]:
        return below(self.at.graph, event) if event.role == "passing" else ()

    def between(self, source: Event, event: Event, why: str) -> Place | str:
        """A place between two events: an identity's place, among children of a Sequential, or on one of the two."""
        alone = not self.at.goes_on(source)
        free = self._free(source, why) if alone else None
        if free is not None:
            return free
        after = (
            self.at.after(source, why)
            if alone
            else f"what {named(source)} puts out goes to others too, which a norm must not change"
        )
        if event.role != "activation":
            return after
        before = self.at.before(event, source, why)
        places = [place for place in (before, after) if isinstance(place, Place)]
        reason = after if event.module is None else before
        return next((place for place in places if place.in_sequence), places[-1] if places else reason)

    def _free(self, source: Event, why: str) -> Place | None:
        """The place of an identity above, nearest to the layer."""
        found = None
        while source.role == "passing" and len(source.sources) == 1:
            found = self.at.replacing(source, why) or found
            source = source.sources[0]
            if self.at.goes_on(source):
                break
        return found

    def _goes_on(self, source: Event, top: Event) -> bool:
        """Whether a result between two events, those too, goes elsewhere as well."""
        while True:
            if self.at.goes_on(source):
                return True
            if source is top:
                return False
            source = source.sources[0]


def _feeds(at: Places, event: Event) -> str:
    producer = at.graph.producer(event)
    return f"{named(producer)} feeds {named(event)}" if producer is not None else f"before {named(event)}"


def _behind(at: Places, event: Event) -> str:
    producer = at.graph.producer(event)
    fed = f", which {named(producer)} feeds" if producer is not None else ""
    return f"after {named(event)}{fed}"
