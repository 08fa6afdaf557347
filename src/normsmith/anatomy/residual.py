"""Residual blocks in a graph: which additions close one, and where in it norms are."""

from __future__ import annotations

from collections.abc import Iterable

from normsmith.anatomy.graph import Event, Graph, Residual
from normsmith.anatomy.passing import effective_consumers, passed_by


def residual_form(graph: Graph, residual: Residual) -> str:
    """A residual block as a formula that tells where in it norms are.

    "x + f(norm(x))" (pre-norm), "norm(x + f(x))" (post-norm), "x + norm(f(x))" (at the branch's end, as in
    ResNet), or "x + f(x)".
    """
    branch = [event for event in residual.branch if not event.keeps_channels]
    if branch and branch[0].role == "norm":
        return "x + f(norm(x))"
    if branch and branch[-1].role == "norm":
        return "x + norm(f(x))"
    if any(event.role == "norm" for event in effective_consumers(graph, residual.add)):
        return "norm(x + f(x))"
    return "x + f(x)"


def identity_skips(graph: Graph, start: Event) -> frozenset[Event]:
    """The additions that take an event's result unchanged, as the skip of a residual block that starts with it.

    Calls that only pass the result on may stand before the block's start as well as on its skip.
    """
    return frozenset(
        residual.add
        for residual in graph.residuals
        if start in passed_by(residual.start) and all(event.keeps_channels for event in residual.skip)
    )


def branch_ends(graph: Graph, add: Event) -> tuple[Event, ...]:
    """What an addition takes from branches of its block: all but the skips, which pass on what a branch starts from."""
    return tuple(
        end
        for end in add.sources
        if not any(
            graph.leads_to(event, other)
            for other in add.sources
            if other is not end
            for event in passed_by(end)
        )
    )


def closed_by(graph: Graph, adds: Iterable[Event]) -> Residual | None:
    """The first residual block that is closed by one of these additions; None where there is none."""
    wanted = set(adds)
    return next((residual for residual in graph.residuals if residual.add in wanted), None)
