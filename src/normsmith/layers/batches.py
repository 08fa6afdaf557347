"""The tensor that is meant in a batch, whatever batches are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from normsmith.errors import InputError

Select = str | int | Callable[[Any], Any] | None
"""What of a batch is meant: a key, an index or a function of it; None is the batch itself, or its first element."""


def tensor_of_batch(batch: Any, select: Select, name: str) -> Tensor:
    """Take one tensor out of a batch.

    Args:
        batch: what a data loader gives.
        select: what of it is meant.
        name: what the caller's users call `select`, for messages.

    Raises:
        InputError: there is no such part, or it is no tensor.

    >>> import torch
    >>> tensor_of_batch((torch.ones(2), torch.zeros(2)), None, "select")
    tensor([1., 1.])
    >>> tensor_of_batch({"x": torch.ones(2), "y": torch.zeros(2)}, "y", "select")
    tensor([0., 0.])
    """
    part = batch
    if callable(select):
        part = select(batch)
    elif select is not None:
        try:
            part = batch[select]
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(
                f"{name}: expected a batch with {select!r} in it, got {_described(batch)}; {name} takes a key, an "
                "index or a function of the batch"
            ) from error
    elif isinstance(batch, (tuple, list)) and batch:
        part = batch[0]
    if not isinstance(part, Tensor):
        raise InputError(
            f"{name}: expected a tensor, got {_described(part)}; say what of a batch is meant, e.g. "
            f'{name}="features", {name}=1 or {name}=lambda batch: batch.features'
        )
    return part


def _described(batch: Any) -> str:
    """What a batch is, in a few words, for messages."""
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with the keys {sorted(map(str, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"
