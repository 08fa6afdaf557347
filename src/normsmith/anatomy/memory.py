"""Which call the values of a tensor are from, while calls write into memory that several tensors share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace

from normsmith.anatomy.events import EventLog
from normsmith.anatomy.graph import Event


class Part:
    """The elements of a block of memory that a tensor consists of; of this one nothing is known.

    Parts are equal if they are the same elements in the same order. A part of which nothing is known is equal to
    itself alone, and may have elements of every other part of its block.
    """

    def meets(self, other: Part) -> bool:
        """Whether both have some element."""
        return True


@dataclass(frozen=True)
class _Handle:
    """A tensor of a forward: the event whose result it is, and what calls have written over it since.

    - `written_by`: the last call that wrote all of it, without returning this tensor.
    - `partly`: the calls after that which wrote into it through another tensor of the block.
    """

    event: Event
    part: Part
    written_by: Event | None = None
    partly: tuple[Event, ...] = ()


@dataclass
class Memory:
    """The tensors of one forward, by keys, and the blocks of memory in which they lie.

    After `h = a(x); torch.relu_(h)` the values of `h` are those of the call `relu_`, though `h` is what `a` returned.
    """

    log: EventLog
    _handles: dict[Hashable, _Handle] = field(default_factory=dict)
    _blocks: dict[Hashable, list[Hashable]] = field(default_factory=lambda: defaultdict(list))
    _block_of: dict[Hashable, Hashable] = field(default_factory=dict)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._handles

    def has(self, block: Hashable) -> bool:
        """Whether a tensor of this forward lies in a block."""
        return bool(self._blocks.get(block))

    def hold(self, key: Hashable, event: Event, block: Hashable, part: Part) -> None:
        """A tensor is what a call has returned."""
        if key not in self._handles:
            self._blocks[block].append(key)
        self._handles[key], self._block_of[key] = _Handle(event, part), block

    def place_of(self, key: Hashable) -> tuple[Hashable, Part]:
        """The block in which a tensor lies, and its part of it."""
        return self._block_of[key], self._handles[key].part

    def overwritten(self, keys: Iterable[Hashable]) -> tuple[Event, ...]:
        """The events whose results have other values once the tensors `keys` are written."""
        handles = (handle for key in keys for _, handle, _ in self._met_by(key))
        return tuple(
            dict.fromkeys(e for h in handles for e in (h.written_by or h.event, *h.partly) if e is not None)
        )

    def write(self, keys: Iterable[Hashable], event: Event) -> None:
        """A call has written the tensors `keys`: every tensor with some of their elements has its values now."""
        for key in keys:
            for met, handle, whole in self._met_by(key):
                self._handles[met] = (
                    replace(handle, written_by=event, partly=())
                    if whole
                    else replace(handle, partly=(*handle.partly, event))
                )

    def read(self, key: Hashable, path: str) -> tuple[Event, tuple[Event, ...]]:
        """The event that a tensor's values are from, and it again if it returned another tensor than this one.

        A tensor of which calls have written parts becomes the result of an event "write" of its own, which takes what
        was there and what was written. `path`: of the module whose forward reads it.
        """
        handle = self._handles[key]
        if handle.partly:
            sources = (handle.written_by or handle.event, *handle.partly)
            mixed = self.log.add("function", path, "write", sources, reads_written=handle.partly, shares=True)
            self._handles[key] = _Handle(mixed, handle.part)
            return mixed, ()
        if handle.written_by is not None:
            return handle.written_by, (handle.written_by,)
        return handle.event, ()

    def _met_by(self, key: Hashable) -> Iterable[tuple[Hashable, _Handle, bool]]:
        """The tensors that a write to one reaches, with whether it reaches all of each."""
        if key not in self._handles:
            return
        part = self._handles[key].part
        for other in self._blocks[self._block_of[key]]:
            handle = self._handles[other]
            if handle.part == part or handle.part.meets(part):
                yield other, handle, handle.part == part
