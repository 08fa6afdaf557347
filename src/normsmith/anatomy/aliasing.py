"""What a change of one call must know of memory: who overwrites its result, and who reads what it overwrote."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import nn

from normsmith._torch import buffers_of, parameters_of
from normsmith.anatomy.describe import label
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.kinds import RESHAPING_FUNCTIONS

_VIEWS = RESHAPING_FUNCTIONS | {
    "movedim",
    "transpose",
    "permute",
    "unsqueeze",
    "squeeze",
    "Flatten",
    "Identity",
}
_MAKING_A_COPY = {"cat", "concat", "concatenate", "stack"}


def read_in_place(graph: Graph, event: Event) -> str | None:
    """Why a call must go on writing where it writes, in words: what it overwrote is read. None if it need not.

    In `self.act(h); return self.layer(h)` the layer gets what `act` has written into `h`; what `act` returns is
    lost, and so is whatever comes in the place of it or after it. The same holds for a view of `h` that lies between
    `h` and the call.

    >>> from torch import nn
    >>> from normsmith.anatomy import trace
    >>> class Lost(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.act, self.layer = nn.ReLU(inplace=True), nn.Linear(2, 2)
    ...     def forward(self, x):
    ...         self.act(x)
    ...         return self.layer(x)
    >>> graph = trace(Lost())
    >>> read_in_place(graph, graph.events[1])
    'ReLU act writes in place, and Linear layer reads the tensor that was overwritten, not what ReLU act returns'
    """
    if not event.shares:
        return None
    for writer in (event, *graph.overwritten_by(event)):
        reader = graph.reader_of_written(writer)
        if reader is not None:
            if reader.name == "write" and graph.consumers(reader):
                reader = graph.consumers(reader)[0]
            what = label(writer)
            who = "the model's output" if reader is writer else label(reader)
            return (
                f"{what} writes in place, and {who} {'is' if reader is writer else 'reads'} the tensor that was "
                f"overwritten, not what {label(event)} returns"
            )
    return None


def overwritten_after(graph: Graph, source: Event, consumer: Event) -> Event | None:
    """The first call after `consumer`, which takes the result of `source`, that overwrites it; None without one."""
    return next((e for e in graph.overwritten_by(source) if e.index > consumer.index), None)


def needs_a_copy(graph: Graph, norm: Event, goes: Callable[[Event], bool]) -> bool:
    """Whether what stands in the place of a norm must return another tensor than it takes, as the norm did.

    So it must if the norm's result is overwritten, or its input is after the norm's call: with one tensor in the
    place of two, a call would read what was never meant for it, or autograd would miss what it has saved. It need
    not where the norm alone takes the result of a layer that makes a new tensor and keeps none of it for its
    gradients. `goes`: which calls of other norms become identities too.
    """
    source = norm.sources[0]
    if not graph.overwritten_by(norm) and overwritten_after(graph, source, norm) is None:
        return False
    while (goes(source) or _is_view(source)) and source.sources and not graph.is_used_elsewhere(source):
        source = source.sources[0]
    makes_new = source.role in ("producer", "add") or source.name in _MAKING_A_COPY
    return not makes_new or graph.is_used_elsewhere(source)


def _is_view(event: Event) -> bool:
    """Whether a call only shows its argument in another shape; autograd lets such a view be overwritten."""
    return event.shares and not event.writes and event.name in _VIEWS


def used_elsewhere(graph: Graph, module: nn.Module, paths: Collection[str]) -> str | None:
    """Which call, outside of a module at `paths`, computes with one of its tensors, in words; None without one."""
    names = [*parameters_of(module), *buffers_of(module)]
    tensors = {f"{path}.{name}".removeprefix(".") for path in paths for name in names}
    for event in graph.events:
        if event.kind == "parameter" and event.path in tensors:
            for consumer in graph.consumers(event):
                inside = any(f"{consumer.path}.".startswith(f"{path}.") for path in paths)
                if not inside:
                    return f"{label(consumer)} computes with its {event.path.rpartition('.')[2]}"
    return None
