"""Data that holds NaN or infinity is refused before anything is trained on it, with the split and the rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from normsmith._text import count, some
from normsmith._torch import leaves_of
from normsmith.tasks.data import gather
from normsmith.tasks.datasets import length
from normsmith.tasks.task import Task

SAMPLES = 10_000
"""So many samples of a dataset that must be loaded one by one are looked at; tensors are looked at whole."""
_AT_ONCE = 512


def check_finite(task: Task, split: str) -> None:
    """Refuse a task whose "train", "validation" or "test" data hold NaN or infinity.

    Raises:
        TaskError: they do; it names the split, the first such rows, and how many there are among those looked at.
    """
    dataset = task.dataset(split)
    whole = length(dataset)
    looked_at = whole if type(dataset) is TensorDataset else min(whole, SAMPLES)
    parts = torch.split(torch.arange(looked_at), _AT_ONCE)
    rows = [row for indices in parts for row in _broken(task, split, indices)]
    if rows:
        raise task.error(
            f"expected finite numbers in the {split} data, got NaN or infinity in {len(rows):,} of "
            f"{count(looked_at, 'sample')}, numbers {some([str(row) for row in rows], 5)} (from 0); drop them, or fill "
            "them in"
        )


def _broken(task: Task, split: str, indices: Tensor) -> list[int]:
    """Which of these samples hold a number that is not finite."""
    batch = gather(task, task.dataset(split), indices)
    broken = torch.zeros(len(indices), dtype=torch.bool)
    for leaf in leaves_of(batch):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.shape[:1] == indices.shape:
            finite = leaf.isfinite()
            broken |= ~(finite if finite.dim() == 1 else finite.flatten(1).all(1)).cpu()
    return indices[broken].tolist()
