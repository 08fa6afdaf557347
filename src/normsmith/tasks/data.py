"""Batches of a task: endless ones to train on, whole splits to evaluate on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset, default_collate

from normsmith._text import error_text
from normsmith._torch import leaves_and_layout, leaves_of, map_leaves, with_layout
from normsmith.tasks.calls import users_code
from normsmith.tasks.datasets import CollatedDataset, length, samples
from normsmith.tasks.task import Task

_EVALUATION_ELEMENTS = 2**21  # input elements in one evaluation batch
_EVALUATION_SAMPLES = 4096  # and at most this many samples
_CACHE_BYTES = 2**29  # a split whose batches are larger is collated anew at each evaluation

_cached: WeakKeyDictionary[Task, dict[str, list[Any]]] = WeakKeyDictionary()


def batches(task: Task, generator: torch.Generator) -> Iterator[Any]:
    """Yield shuffled training batches of `task.batch_size` without end, on the task's device.

    Each epoch is a new permutation of the training set, less its incomplete last batch. Which samples come
    and when is decided by `generator` alone: two generators of one seed give the same batches whatever else
    is drawn in between. (A dataset that augments at random draws from torch's global state, which is the
    caller's.)

    >>> x = torch.arange(6.0)
    >>> task = Task(model=nn.Identity, train=(x,), validation=(x,), test=(x,), batch_size=4,
    ...             loss=nn.MSELoss(), metric=nn.MSELoss())
    >>> stream = batches(task, torch.Generator().manual_seed(0))
    >>> [tuple(next(stream)[0].shape) for _ in range(3)]
    [(4,), (4,), (4,)]
    """
    dataset = task.dataset("train")
    count = length(dataset)
    whole = count - count % task.batch_size
    while True:
        order = torch.randperm(count, generator=generator, device=generator.device)[:whole].cpu()
        for indices in torch.split(order, task.batch_size):
            yield gather(task, dataset, indices)


def gather(task: Task, dataset: Dataset[Any], indices: Tensor) -> Any:
    """One batch: the samples at `indices` (a CPU tensor of int64), collated, on the task's device."""
    if type(dataset) is TensorDataset:
        batch: Any = tuple(tensor[indices.to(tensor.device)] for tensor in dataset.tensors)
    else:
        collate = dataset.collate if isinstance(dataset, CollatedDataset) else task.collate
        batch = (collate or default_collate)(samples(dataset, indices.tolist()))
    if (
        task.device == "cpu"
        and type(dataset) is TensorDataset
        and not any(t.is_cuda for t in dataset.tensors)
    ):
        return batch
    return map_leaves(lambda leaf: leaf.to(task.device) if isinstance(leaf, Tensor) else leaf, batch)


def evaluate(task: Task, model: nn.Module, split: str) -> tuple[float, float]:
    """Loss and metric of `model` on the whole of "train", "validation" or "test".

    The model is put in evaluation mode, gradients are off, and every submodule's mode is as before
    afterwards, also when something raises. Outputs of all batches are concatenated along their first
    dimension, and loss and metric are called once each. Collated batches of up to 512 MiB a split are kept
    for the next call.

    Raises TaskError when outputs cannot be concatenated, or the metric raises or is no number.

    >>> x = torch.arange(6.0)
    >>> task = Task(model=nn.Identity, train=(x, x), validation=(x, x), test=(x, x + 1), batch_size=4,
    ...             loss=nn.MSELoss(), metric=nn.L1Loss())
    >>> evaluate(task, task.model(), "test")
    (1.0, 1.0)
    """
    with evaluating(model):
        output, target = outputs(task, model, split)
        return float(task.loss(output, target)), metric_of(task, split, output, target)


def metric(task: Task, model: nn.Module, split: str) -> float:
    """The metric alone, of a model that is inside `evaluating` already, for callers that evaluate often.

    Raises TaskError as `evaluate` does.
    """
    return metric_of(task, split, *outputs(task, model, split))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside the block; every submodule's mode as before after it."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def outputs(task: Task, model: nn.Module, split: str) -> Any:
    """Outputs and targets of a whole split, of a model that is inside `evaluating` already."""
    pairs = [task.forward(model, batch) for batch in evaluation_batches(task, split)]
    return _concatenated(task, split, pairs)


def evaluation_batches(task: Task, split: str) -> Iterator[Any]:
    """The batches of a split in its own order, as large as is sensible; kept when they are small enough."""
    kept = _cached.setdefault(task, {})
    if split not in kept:
        dataset = task.dataset(split)
        count = length(dataset)
        first = gather(task, dataset, torch.arange(1))
        size = _evaluation_batch_size(task, first)
        chunks = torch.split(torch.arange(count), size)
        if _bytes(first) * count > _CACHE_BYTES:
            return (gather(task, dataset, indices) for indices in chunks)
        kept[split] = [gather(task, dataset, indices) for indices in chunks]
    return iter(kept[split])


def _evaluation_batch_size(task: Task, one: Any) -> int:
    elements = sum(leaf.numel() for leaf in leaves_of(one) if isinstance(leaf, Tensor))
    return max(task.batch_size, min(_EVALUATION_SAMPLES, _EVALUATION_ELEMENTS // max(elements, 1)))


def _bytes(batch: Any) -> int:
    return sum(leaf.nbytes for leaf in leaves_of(batch) if isinstance(leaf, Tensor))


def _concatenated(task: Task, split: str, pairs: list[Any]) -> Any:
    if len(pairs) == 1:
        return pairs[0]
    leaves, layout = leaves_and_layout(pairs[0])
    try:
        columns = zip(leaves, *(leaves_and_layout(pair)[0] for pair in pairs[1:]), strict=True)
        joined = [torch.cat(column) if isinstance(column[0], Tensor) else column[0] for column in columns]
    except (RuntimeError, ValueError, TypeError) as error:
        raise task.error(
            f"outputs and targets of the batches of {split} must be tensors that can be "
            f"concatenated along their first dimension: {error}"
        ) from error
    return with_layout(joined, layout)


def metric_of(task: Task, split: str, output: Any, target: Any) -> float:
    """The metric of outputs that are there already, as a number."""
    with users_code(lambda error: task.error(f"metric raised on {split}: {error_text(error)}")):
        value: Any = task.metric(output, target)
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise task.error(f"metric must return a number, got {_what(value)}") from error


def _what(value: Any) -> str:
    """What a metric returned that is no number, and what to write."""
    if value is None:
        return "None; does it lack a return?"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):  # torch.Size is one
        return (
            f"a {type(value).__name__} of shape {tuple(shape)}; return one number, such as its .mean().item()"
        )
    if isinstance(value, (tuple, list, dict)):
        return f"a {type(value).__name__} of {len(value)}; return one of them, as a float"
    return type(value).__name__
