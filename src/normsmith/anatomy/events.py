"""The events of a forward, numbered and collected while it is followed, whichever way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn

from normsmith.anatomy.graph import Event
from normsmith.anatomy.moves import Move
from normsmith.anatomy.pooling import Pooling


class EventLog:
    """The events so far, in the order of the calls."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(
        self,
        kind: Literal["input", "parameter", "module", "function"],
        path: str,
        name: str,
        sources: Iterable[Event] = (),
        module: nn.Module | None = None,
        shape: tuple[int, ...] | None = None,
        *,
        writes: Iterable[Event] = (),
        reads_written: Iterable[Event] = (),
        shares: bool = False,
        pooling: Pooling | None = None,
        move: Move | None = None,
    ) -> Event:
        """Make the next event; the arguments are those of `Event`."""
        event = Event(
            len(self.events),
            kind,
            path,
            name,
            tuple(sources),
            module,
            shape,
            tuple(writes),
            tuple(reads_written),
            shares,
            pooling,
            move,
        )
        self.events.append(event)
        return event
