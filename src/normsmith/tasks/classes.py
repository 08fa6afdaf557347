"""Training data of a single class are refused before anything is trained on them: there is nothing to tell apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from normsmith._text import count
from normsmith.tasks.data import evaluating, gather
from normsmith.tasks.datasets import length
from normsmith.tasks.finite import SAMPLES
from normsmith.tasks.task import Task

_AT_ONCE = 512


def check_classes(task: Task, model: nn.Module, output: Any, target: Any) -> None:
    """Refuse a task whose network tells classes apart, and whose training targets are all of one.

    The first batch mostly shows two classes, and then no more data are looked at. A dataset that is loaded sample by
    sample, and has more than `SAMPLES`, is let through.

    Args:
        task: what is to be trained.
        model: a network of the task, which stays as it is.
        output, target: those of one training batch.

    Raises:
        TaskError: they are; it names the class.
    """
    seen = _classes(output, target)
    dataset = task.dataset("train")
    samples = length(dataset)
    if len(seen) != 1 or (type(dataset) is not TensorDataset and samples > SAMPLES):
        return
    with evaluating(model):
        for indices in torch.split(torch.arange(samples), _AT_ONCE):
            seen |= _classes(*task.forward(model, gather(task, dataset, indices)))
            if len(seen) > 1:
                return
    raise task.error(
        f"expected training targets of at least two classes, got class {int(seen.pop())} in all of "
        f"{count(samples, 'sample')}, so that always the same answer is right; look at how the targets are made, and "
        "at which samples train holds"
    )


def _classes(output: Any, target: Any) -> set[int]:
    """The classes of a batch, where an output (N, C, ...) has a number for each class and the target (N, ...) is one.

    >>> _classes(torch.zeros(3, 2), torch.tensor([1, 0, 1])), _classes(torch.zeros(3), torch.zeros(3))
    ({0, 1}, set())
    """
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)) or output.ndim < 2:
        return set()
    whole = not (target.is_floating_point() or target.is_complex())
    return {*torch.unique(target).tolist()} if whole and output[:, 0].shape == target.shape else set()
