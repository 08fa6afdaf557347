"""The forms in which users bring data, each made a map-style dataset; what is none is told what to write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from normsmith._text import error_text
from normsmith.errors import TaskError

MOST = 10**8
"""More samples than that are taken for a dataset without an end: their order alone would fill the memory."""
_HELD_OUT = 5  # one sample in this many validates when the user brings no validation set
_HELD_OUT_SEED = 20150211
_FROM_NUMPY = "write torch.from_numpy(array), for inputs in float64 torch.from_numpy(array).float()"

Data = Dataset[Any] | tuple[Tensor, ...] | list[Any] | DataLoader[Any]


class ListedDataset(Dataset[Any]):
    """A list of samples as a dataset."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class CollatedDataset(Dataset[Any]):
    """A dataset together with the `collate_fn` of the DataLoader it came from."""

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.dataset = dataset
        self.collate = collate

    def __len__(self) -> int:
        return length(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return samples(self.dataset, indices)


def as_dataset(data: Any, where: str) -> Dataset[Any]:
    """Turn tensors, a list of samples, a DataLoader or a Dataset into a map-style Dataset; TaskError names `where`."""
    if isinstance(data, DataLoader):
        return _from_loader(data, where)
    if isinstance(data, tuple) or (isinstance(data, list) and any(isinstance(item, Tensor) for item in data)):
        return _from_tensors(tuple(data), where)
    if isinstance(data, list):
        return _from_list(data, where)
    if isinstance(data, IterableDataset):
        raise TaskError(
            f"{where} must be a map-style dataset (with __len__ and __getitem__), got the iterable "
            f"{type(data).__name__}; studies need the same samples in the same order in every arm"
        )
    other = isinstance(data, (Tensor, np.ndarray, dict, str, bytes)) or hasattr(data, "iloc")
    if other or not (hasattr(data, "__getitem__") and isinstance(data, Sized)):
        raise TaskError(
            f"{where} must be a Dataset with a length, a tuple of tensors, a list of samples or a DataLoader, "
            f"got {kind(data)}{_instead(data)}"
        )
    _check_length(data, where)
    return _flat(data)  # type: ignore[arg-type]


def length(dataset: Any) -> int:
    """The number of samples of a map-style dataset."""
    return len(dataset)


def samples(dataset: Any, indices: list[int]) -> list[Any]:
    """The samples at `indices`, in one call where the dataset offers it."""
    if hasattr(dataset, "__getitems__"):
        fetched: list[Any] = dataset.__getitems__(indices)
        return fetched
    return [dataset[index] for index in indices]


def hold_out(dataset: Dataset[Any]) -> tuple[Dataset[Any], Dataset[Any]]:
    """Split off a fifth of the samples, drawn with a fixed seed: (rest, held out), each in its old order."""
    count = length(dataset)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_HELD_OUT_SEED))
    cut = count // _HELD_OUT
    held = order[:cut].sort().values.tolist()
    rest = order[cut:].sort().values.tolist()
    return _subset(dataset, rest), _subset(dataset, held)


def kind(value: Any) -> str:
    """What a value is, for a message.

    >>> kind((torch.zeros(2), [1])), kind(0.5), kind(torch.zeros(2))
    ('tuple of Tensor, list', 'float 0.5', 'a single Tensor')
    """
    if isinstance(value, (Tensor, np.ndarray)):
        return f"a single {'Tensor' if isinstance(value, Tensor) else 'NumPy array'}"
    if isinstance(value, (tuple, list)):
        names = [type(item).__name__ for item in value]
        several = names[:3] + [f"… ({len(names):,} in all)"] * (len(names) > 3)
        return f"{type(value).__name__} of {', '.join(several) or 'nothing'}"
    shown = "" if hasattr(value, "iloc") or isinstance(value, Iterator) else f" {value!r:.60}"
    return f"{type(value).__name__}{' '.join(shown.split(chr(10)))}"


def _instead(data: Any) -> str:
    """What to write in place of data that are no dataset."""
    if isinstance(data, Tensor):
        return "; write (inputs, targets), or (inputs,) where there are no targets"
    if isinstance(data, np.ndarray):
        return f"; {_FROM_NUMPY}, in a tuple: (inputs, targets)"
    if hasattr(data, "iloc"):
        return "; write (torch.tensor(frame.to_numpy()), targets), two tensors"
    if isinstance(data, dict):
        return "; write a list of such samples, or a Dataset whose samples are dicts"
    return "; write list(...) around it" if isinstance(data, Iterator) else ""


def _check_length(data: Any, where: str) -> None:
    """Refuse a dataset that does not say how long it is, or that has no end."""
    try:
        count = len(data)
    except Exception as error:
        raise TaskError(f"{where} must have a length, but its __len__ raised {error_text(error)}") from error
    if count > MOST:
        raise TaskError(
            f"{where} must have at most {MOST:,} samples, got {count:,}; every evaluation goes through the whole of "
            "validation and test: pass torch.utils.data.Subset(dataset, range(10_000)) or so many as you need"
        )


def _subset(dataset: Dataset[Any], indices: list[int]) -> Dataset[Any]:
    if isinstance(dataset, CollatedDataset):
        return CollatedDataset(Subset(dataset.dataset, indices), dataset.collate)
    return _flat(Subset(dataset, indices))


def _flat(dataset: Dataset[Any]) -> Dataset[Any]:
    """Index a Subset of tensors once, so that its batches are as fast as the tensors' own."""
    if type(dataset) is Subset:
        inner = _flat(dataset.dataset)
        if type(inner) is TensorDataset:
            index = torch.as_tensor(dataset.indices, dtype=torch.long)
            return TensorDataset(*(tensor[index] for tensor in inner.tensors))
    return dataset


def _from_tensors(tensors: tuple[Any, ...], where: str) -> Dataset[Any]:
    if not tensors or not all(isinstance(tensor, Tensor) and tensor.ndim for tensor in tensors):
        raise TaskError(
            f"{where} must be a tuple of tensors with a batch dimension, got {kind(tensors)}{_columns(tensors)}"
        )
    if len({len(tensor) for tensor in tensors}) != 1:
        counts = ", ".join(str(len(tensor)) for tensor in tensors)
        raise TaskError(f"{where} must be tensors of one length, got lengths {counts}")
    return TensorDataset(*tensors)


def _columns(items: tuple[Any, ...]) -> str:
    """What to write in place of a tuple that does not hold tensors."""
    if any(isinstance(item, np.ndarray) for item in items):
        return f"; {_FROM_NUMPY}"
    if items and all(isinstance(item, (tuple, dict)) for item in items):
        return "; samples go in a list: [(x0, y0), (x1, y1), ...]"
    return "; write torch.tensor(...) around what is none" if items else ""


def _from_list(items: list[Any], where: str) -> Dataset[Any]:
    """A list of samples: each of them is what a Dataset would return."""
    if any(isinstance(item, np.ndarray) for item in items):
        raise TaskError(
            f"{where} must be a tuple of tensors or a list of samples, got {kind(items)}; {_FROM_NUMPY}"
        )
    if any(item is None or isinstance(item, (int, float, complex, str, bytes)) for item in items):
        raise TaskError(
            f"{where} must be a list of samples such as [(x0, y0), (x1, y1), ...], got {kind(items)}"
        )
    return ListedDataset(items)


def _from_loader(loader: DataLoader[Any], where: str) -> Dataset[Any]:
    dataset = as_dataset(loader.dataset, where)
    if loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
        raise TaskError(
            f"{where} is a DataLoader that makes its own batches; pass the dataset of single samples instead"
        )
    if type(loader.sampler) not in {RandomSampler, SequentialSampler}:
        raise TaskError(
            f"{where} is a DataLoader with a {type(loader.sampler).__name__}, which a task would not use; "
            "pass torch.utils.data.Subset(dataset, indices) instead"
        )
    if loader.collate_fn is default_collate:
        return dataset
    return CollatedDataset(dataset, loader.collate_fn)
