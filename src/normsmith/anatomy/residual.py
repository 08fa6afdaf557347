"""Residual blocks in a graph: which additions close one, and where in it norms are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from normsmith.anatomy.graph import Event, Graph, Residual


def residual_form(graph: Graph, residual: Residual) -> str:
    """A residual block as a formula that tells where in it norms are.

    "x + f(norm(x))" (pre-norm), "norm(x + f(x))" (post-norm), "x + norm(f(x))" (at the branch's end, as in
    ResNet), or "x + f(x)".
    """
    branch = [event for event in residual.branch if event.role != "passing"]
    if branch and branch[0].role == "norm":
        return "x + f(norm(x))"
    if branch and branch[-1].role == "norm":
        return "x + norm(f(x))"
    if any(event.role == "norm" for event in effective_consumers(graph, residual.add)):
        return "norm(x + f(x))"
    return "x + f(x)"


def effective_consumers(graph: Graph, event: Event) -> Iterator[Event]:
    """The calls that take an event's result, directly or through calls that keep channels, as dropout and pooling."""
    for later in graph.consumers(event):
        if later.role == "passing":
            yield from effective_consumers(graph, later)
        else:
            yield later


def effective_source(event: Event) -> Event:
    """The event that an event's channels come from: itself, or the one before calls that only pass channels on."""
    while event.role == "passing" and len(event.sources) == 1:
        event = event.sources[0]
    return event


def identity_skips(graph: Graph, start: Event) -> frozenset[Event]:
    """The additions that take an event's result unchanged, as the skip of a residual block that starts with it."""
    return frozenset(
        residual.add
        for residual in graph.residuals
        if residual.start is start and all(event.role == "passing" for event in residual.skip)
    )


def closed_by(graph: Graph, adds: Iterable[Event]) -> Residual | None:
    """The first residual block that is closed by one of these additions; None where there is none."""
    wanted = set(adds)
    return next((residual for residual in graph.residuals if residual.add in wanted), None)
