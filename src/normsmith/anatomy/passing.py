"""Who takes a result, and whose it is, beyond the calls that only pass it on: identities, dropout, poolings."""

from __future__ import annotations

from collections.abc import Iterator

from normsmith.anatomy.graph import Event, Graph, is_reshape
from normsmith.anatomy.kinds import MOVING_FUNCTIONS


def effective_consumers(graph: Graph, event: Event) -> Iterator[Event]:
    """The calls that take an event's result, directly or through calls that keep channels, as dropout and pooling."""
    for later in graph.consumers(event):
        if later.keeps_channels:
            yield from effective_consumers(graph, later)
        else:
            yield later


def effective_source(event: Event) -> Event:
    """The event that an event's channels come from: itself, or the one before calls that only pass channels on."""
    return passed_by(event)[-1]


def passed_by(event: Event) -> tuple[Event, ...]:
    """An event, and those before it whose channels it passes on; the last of them does more than that."""
    chain = [event]
    while chain[-1].keeps_channels:
        chain.append(chain[-1].sources[0])
    return tuple(chain)


def norm_after(graph: Graph, event: Event) -> Event | None:
    """A norm that takes an event's result, also through calls that pass its values on or move them; None without."""
    for later in graph.consumers(event):
        norm = later if later.role == "norm" else norm_after(graph, later) if moves(later) else None
        if norm is not None:
            return norm
    return None


def norm_before(event: Event) -> Event | None:
    """The norm whose result an event passes on or moves, perhaps itself; None where there is none."""
    while moves(event) and event.sources:
        event = event.sources[0]
    return event if event.role == "norm" else None


def moves(event: Event) -> bool:
    """Whether a call puts out the values that it takes, or some of them: it passes channels on, or moves them."""
    is_move = event.kind == "function" and event.name in MOVING_FUNCTIONS
    return is_move or is_reshape(event) or event.keeps_channels
