"""What kind of residual block an addition closes, by where its norms are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from normsmith.anatomy.graph import Event, Graph, Residual


def form(graph: Graph, residual: Residual) -> str:
    """A residual block as a formula: where in it norms are.

    "x + f(norm(x))" (pre-norm), "norm(x + f(x))" (post-norm), "x + norm(f(x))" (at the branch's end, as in
    ResNet), or "x + f(x)".
    """
    branch = [event for event in residual.branch if event.role != "passing"]
    if branch and branch[0].role == "norm":
        return "x + f(norm(x))"
    if branch and branch[-1].role == "norm":
        return "x + norm(f(x))"
    if any(event.role == "norm" for event in below(graph, residual.add)):
        return "norm(x + f(x))"
    return "x + f(x)"


def below(graph: Graph, event: Event) -> Iterator[Event]:
    """What takes an event's result, through what keeps channels, such as dropout and pooling."""
    for later in graph.consumers(event):
        if later.role == "passing":
            yield from below(graph, later)
        else:
            yield later


def above(event: Event) -> Event:
    """Where what an event puts out comes from, through what keeps channels: the event itself unless it passes."""
    while event.role == "passing" and len(event.sources) == 1:
        event = event.sources[0]
    return event


def identity_skips(graph: Graph, start: Event) -> frozenset[Event]:
    """The additions that take an event's result as it is, beside a branch that begins with it."""
    return frozenset(
        residual.add
        for residual in graph.residuals
        if residual.start is start and all(event.role == "passing" for event in residual.skip)
    )


def closed_by(graph: Graph, adds: Iterable[Event]) -> Residual | None:
    """The first residual block that one of some additions closes."""
    wanted = set(adds)
    return next((residual for residual in graph.residuals if residual.add in wanted), None)
