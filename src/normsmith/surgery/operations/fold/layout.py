"""How a layer's channels lie where a norm has its own, with flatten, transpose, slices and the like between the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from normsmith.anatomy.graph import Event


def repeats_between(
    moves: Sequence[Event],
    shape: tuple[int, ...],
    dimensions: tuple[int, int],
    channels: int,
    features: int,
    side: Literal["after", "before"],
) -> int | None:
    """How many of a layer's channels in a row are one of the norm's: channel i is the norm's i // repeats % features.

    The number of its channel goes with each element from the first of the two through the very moves of the
    forward. None where the elements of some channel of the layer come to several channels of the norm.

    Args:
        moves: the calls between the two that move numbers, in order.
        shape: of the first one's result.
        dimensions: in which the first one has its channels there, and in which the second takes them.
        channels, features: how many the layer and the norm have.
        side: whether the norm comes after the layer, or before it.
    """
    numbers = _along(shape, dimensions[0]).expand(shape)
    for event in moves:
        assert event.move is not None
        numbers = event.move(numbers)
    places = _along(tuple(numbers.shape), dimensions[1])
    layer, norm = (numbers, places) if side == "after" else (places, numbers)
    most, rest = divmod(channels, features)
    if rest:
        return None
    every = (count for count in range(1, most + 1) if most % count == 0)
    return next((count for count in every if _agree(layer, norm, count, features)), None)


def keeps_the_batch_apart(event: Event, *, channels_last: bool) -> bool:
    """Whether a move of one sample leaves the batch's dimension, or that of the channels, where it was.

    Of one sample a move does not show whether it would mix others with the channels.
    """
    before, after = event.sources[0].shape, event.shape
    if not before or not after:
        return False
    return before[0] == after[0] == 1 or (channels_last and before[-1] == after[-1])


def _along(shape: tuple[int, ...], dimension: int) -> Tensor:
    """0, 1, 2, … along one dimension."""
    sizes = [1] * len(shape)
    sizes[dimension] = shape[dimension]
    return torch.arange(shape[dimension], dtype=torch.int32).reshape(sizes)


def _agree(layer: Tensor, norm: Tensor, repeats: int, features: int) -> bool:
    def same(layer: Tensor, norm: Tensor) -> bool:
        return bool((layer // repeats % features == norm).all())

    return same(layer[:1], norm[:1]) and same(layer, norm)  # the first sample tells most that do not
