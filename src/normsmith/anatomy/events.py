"""The events of a forward while it is followed: they are numbered and collected here, whichever way it is followed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from torch import nn

from normsmith.anatomy.graph import Event


class EventLog:
    """The events so far, in the order of the calls, and how often each module was called."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.calls: Counter[nn.Module] = Counter()

    def add(
        self,
        kind: Literal["input", "parameter", "module", "function"],
        path: str,
        name: str,
        sources: Iterable[Event] = (),
        module: nn.Module | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Event:
        event = Event(len(self.events), kind, path, name, tuple(sources), module, shape)
        self.events.append(event)
        return event
