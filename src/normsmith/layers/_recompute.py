"""Forwards that activation checkpointing runs again: recognised, and run as their originals were.

`torch.utils.checkpoint` discards the activations of a segment of a model and recomputes them during backward. By
then the running statistics have moved, so a layer remembers, on the segment itself, the state of each of its
forwards. A checkpoint within a checkpoint has no segment of its own during the first forward of the outer one's
recomputation: there the present statistics are used; nothing is updated either way.

Compiled forwards are out of reach, since no code of ours runs when one is recomputed. Measured on torch 2.13:
`checkpoint` around a compiled module updates the statistics twice, as for torch's own batch norm; within a compiled
function it updates them once; and in both batch renormalization recomputes from statistics that have moved, so its
gradients are wrong. Checkpoint such a model in eager mode, or leave the renorm layers out of the segments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from normsmith._torch import backward_number, checkpointed_segment, recomputed_segment
from normsmith.ops import Renorm, Running


class ForwardState(NamedTuple):
    """What a forward depends on beside its input: the running statistics before their update, the bounds of batch
    renormalization, the mask, which statistics normalise, and whether the running ones are updated."""

    running: Running | None
    renorm: Renorm | None
    mask: Tensor | None
    normalize_with: Literal["batch", "running"]
    update_running: bool

    def for_recomputation(self) -> ForwardState:
        """The same state for a later forward: with copies of the running statistics, and without an update."""
        running = self.running
        if running is not None:
            mean, var, std, _ = running
            running = Running(
                mean.detach().clone(), var.detach().clone(), None if std is None else std.detach().clone()
            )
        return self._replace(running=running, update_running=False)


_ATTRIBUTE = "_normsmith_states"


def state_of_forward(layer: nn.Module, current: Callable[[], ForwardState]) -> ForwardState:
    """The state of a layer's forward: the current one or, where the forward is recomputed, that of its original."""
    if torch.compiler.is_compiling():
        return current()
    recomputed = is_recomputing()
    if recomputed:
        original: ForwardState | None = recall(layer)
        if original is not None:
            return original
    state = current()
    if recomputed:
        state = state._replace(update_running=False)
    segment = checkpointed_segment()
    if segment is not None:
        remember(segment, layer, state.for_recomputation())
    return state


def is_recomputing() -> bool:
    """Whether this forward runs inside a backward, as recomputed ones do."""
    return backward_number() != -1


def remember(segment: Any, layer: nn.Module, state: Any) -> None:
    """Keep the state of a forward, of a kind that the layer knows, on the checkpointed segment that it is part of."""
    _record(segment).setdefault(id(layer), []).append(state)


def recall(layer: nn.Module) -> Any:
    """The state of the original of this recomputed forward, or None: per layer, in the order of its calls."""
    segment = recomputed_segment()
    if segment is None:
        return None
    record = _record(segment)
    states = record.get(id(layer), [])
    turn = (id(layer), backward_number())
    number = record.get(turn, 0)
    record[turn] = number + 1
    return states[number] if number < len(states) else None


def _record(segment: Any) -> dict[Any, Any]:
    """What is remembered on a segment: states by layer, and how many of them each recomputation has read."""
    if not hasattr(segment, _ATTRIBUTE):
        setattr(segment, _ATTRIBUTE, {})
    record: dict[Any, Any] = getattr(segment, _ATTRIBUTE)
    return record
