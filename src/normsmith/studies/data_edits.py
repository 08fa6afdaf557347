"""Edits of a task's data: the size and the make-up of batches, wrong labels, few samples.

An edit takes the task and returns another with the same network. What it draws at random, it draws with a fixed seed: a
study repeats everything but the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from normsmith._text import count
from normsmith.errors import StudyError
from normsmith.studies.names import named
from normsmith.tasks import Task
from normsmith.tasks.datasets import ListedDataset, length
from normsmith.tasks.task import SPLITS

_SEED = 20150211


@named("batch-size")
def batch_size(task: Task, size: int) -> Task:
    """Train on batches of `size`."""
    if size > length(task.train):
        raise StudyError(
            f"expected at least one batch of {size} samples to train on, got {length(task.train)} samples"
        )
    return replace(task, batch_size=size)


@named("label-noise")
def label_noise(task: Task, share: float) -> Task:
    """Replace this share of the training labels by labels drawn from all classes; validation and test stay."""
    inputs, targets = tensors(task, "train")
    classes, draw = classes_of(task), generator()
    wrong = torch.randperm(len(targets), generator=draw)[: round(share * len(targets))]
    noisy = targets.clone()
    drawn = torch.randint(len(classes), (len(wrong),), generator=draw)
    noisy[wrong] = torch.tensor(classes, dtype=targets.dtype)[drawn]
    return replace(task, train=(inputs, noisy))


@named("few-samples")
def few_samples(task: Task, share: float) -> Task:
    """Train on this share of the training samples, drawn at random; validation and test stay."""
    inputs, targets = tensors(task, "train")
    kept = round(share * len(targets))
    if not 0 < kept <= len(targets):
        raise StudyError(
            f"expected a share of {len(targets)} training samples that leaves one or more, got {share:g}"
        )
    chosen = torch.randperm(len(targets), generator=generator())[:kept]
    return replace(task, train=(inputs[chosen], targets[chosen]))


@named("few-classes")
def few_classes(task: Task, classes: int) -> Task:
    """Train on batches whose samples come from `classes` classes each; validation and test stay."""
    inputs, targets = tensors(task, "train")
    present = len(classes_of(task))
    if present <= classes:
        raise StudyError(f"expected data of more than {classes} classes, got {present}")
    return replace(task, train=FewClasses(inputs, targets, classes), collate=None)


class FewClasses(Dataset[Any]):
    """Samples that come in batches of few classes: those of the first samples of each batch.

    Which classes these are is thus as random as the order of the batches. A sample of another class is replaced by one
    of these, each class in its turn.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, classes: int) -> None:
        self.inputs, self.targets, self.classes = inputs, targets, classes
        self._members: dict[int, list[int]] = {}
        for index, own in enumerate(targets.tolist()):
            self._members.setdefault(own, []).append(index)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        present = [int(self.targets[index]) for index in indices]
        chosen = [*dict.fromkeys(present)][: self.classes]
        replaced = (
            index if own in chosen else self._instead(index, chosen)
            for index, own in zip(indices, present, strict=True)
        )
        return [self[index] for index in replaced]

    def _instead(self, index: int, classes: Sequence[int]) -> int:
        turn, place = divmod(index, len(classes))
        members = self._members[classes[place]]
        return members[turn % len(members)]


def generator() -> torch.Generator:
    """Random numbers that are the same whenever an edit is made."""
    return torch.Generator().manual_seed(_SEED)


def tensors(task: Task, split: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a split.

    Raises:
        StudyError: the split is no pair of tensors.
    """
    dataset = task.dataset(split)
    if not (isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2):
        raise StudyError(
            f"expected the {split} data as a pair of tensors, (inputs, targets), which this question can change; got "
            f"{_kind(dataset)}"
        )
    inputs, targets = dataset.tensors
    return inputs, targets


def _kind(dataset: Dataset[Any]) -> str:
    """What a dataset is, in the words of whoever gave it."""
    if isinstance(dataset, TensorDataset):
        return count(len(dataset.tensors), "tensor")
    whole = dataset.dataset if isinstance(dataset, Subset) else dataset
    return "a list of samples" if isinstance(whole, ListedDataset) else type(dataset).__name__


def features_of(task: Task, split: str = "train") -> Tensor:
    """The inputs of a split, of shape (samples, features, …) in floating point.

    Raises:
        StudyError: the split is no pair of tensors, or its inputs are others, such as the numbers of words.
    """
    inputs, _ = tensors(task, split)
    if not inputs.is_floating_point() or inputs.dim() < 2:
        raise StudyError(
            "expected inputs of shape (samples, features, …) in floating point, which this question can change; "
            f"got shape {tuple(inputs.shape)} and {inputs.dtype}"
        )
    return inputs


def classes_of(task: Task) -> list[int]:
    """The classes among the training targets, in order.

    Raises:
        StudyError: the targets are not one whole number a sample.
    """
    _, targets = tensors(task, "train")
    if targets.dim() != 1 or targets.is_floating_point() or targets.is_complex():
        raise StudyError(
            "expected one class a sample, a whole number, as target; got targets of shape "
            f"{tuple(targets.shape)} and {targets.dtype}"
        )
    return sorted(set(targets.tolist()))


def with_inputs(task: Task, change: Callable[[Tensor, str], Tensor]) -> Task:
    """The task with the inputs of every split changed by `change(inputs, split)`.

    Raises:
        StudyError: a split is no pair of tensors, or its inputs are not floating point numbers.
    """
    changed = {}
    for split in SPLITS:
        inputs = features_of(task, split)
        changed[split] = (change(inputs, split), tensors(task, split)[1])
    return replace(task, **changed)  # type: ignore[arg-type]
