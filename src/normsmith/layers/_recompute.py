"""Forwards that activation checkpointing runs again: recognised, and given what they saw the first time.

`torch.utils.checkpoint` discards the activations of a segment and recomputes them during backward. By then the
running statistics have moved, so a layer remembers, on the segment itself, what each of its forwards went by.
A checkpoint within a checkpoint has no segment of its own during the first forward of the outer one's
recomputation: there the present statistics are used; nothing is updated either way.

Compiled forwards are out of reach, since no code of ours runs when one is recomputed. Measured on torch 2.13:
`checkpoint` around a compiled module updates the statistics twice, as for torch's own batch norm; within a compiled
function it updates them once; and in both batch renormalization recomputes from statistics that have moved, so its
gradients are wrong. Checkpoint such a model in eager mode, or leave the renorm layers out of the segments.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from normsmith.ops import Renorm, Running


class Seen(NamedTuple):
    """What a forward went by: pre-update statistics, renorm's bounds, the mask, which statistics normalised
    and whether the running ones moved."""

    running: Running | None
    renorm: Renorm | None
    mask: Tensor | None
    normalize_with: Literal["batch", "running"]
    update_running: bool


_ATTRIBUTE = "_normsmith_seen"


def is_recomputing() -> bool:
    """Whether this forward runs inside a backward pass, as recomputed ones do."""
    return bool(torch._C._current_graph_task_id() != -1)


def remember(layer: nn.Module, seen: Seen) -> None:
    """Keep what this forward goes by on the checkpointed segment that it is part of; nothing where it is not."""
    segment = _running_segment()
    if segment is not None:
        _record(segment).setdefault(id(layer), []).append(seen)


def will_be_recomputed() -> bool:
    """Whether this forward is part of a checkpointed segment."""
    return _running_segment() is not None


def recall(layer: nn.Module) -> Seen | None:
    """What the original of this recomputed forward went by: per layer, in the order of its calls."""
    segment = _recomputed_segment()
    if segment is None:
        return None
    record = _record(segment)
    seen = record.get(id(layer), [])
    turn = (id(layer), torch._C._current_graph_task_id())
    number = record.get(turn, 0)
    record[turn] = number + 1
    return seen[number] if number < len(seen) else None


def _record(segment: Any) -> dict[Any, Any]:
    if not hasattr(segment, _ATTRIBUTE):
        setattr(segment, _ATTRIBUTE, {})
    record: dict[Any, Any] = getattr(segment, _ATTRIBUTE)
    return record


def _running_segment() -> Any:
    hooks: Any = torch._C._autograd._top_saved_tensors_default_hooks(False)
    if hooks is not None:
        # non-reentrant: the frame of the segment is in the closure of its hook
        pack = hooks[0]
        if getattr(pack, "__qualname__", "").startswith("_checkpoint_hook."):
            return dict(zip(pack.__code__.co_freevars, pack.__closure__, strict=True))["frame"].cell_contents
        return None
    # reentrant: the segment runs without gradients
    return None if torch.is_grad_enabled() else _on_the_stack({"forward": "ctx"})


def _recomputed_segment() -> Any:
    return _on_the_stack({"unpack_hook": "frame", "backward": "ctx"})


def _on_the_stack(wanted: dict[str, str]) -> Any:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        variable = wanted.get(frame.f_code.co_name)
        if variable is not None and frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return frame.f_locals.get(variable)
        frame = frame.f_back
    return None
