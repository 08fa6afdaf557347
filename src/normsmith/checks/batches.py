"""The batches that a check looks at, and what their loader says of those that it does not look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from normsmith._text import error_text
from normsmith._torch import leaves_of, map_leaves
from normsmith.checks.finding import UnavailableError

MOST = 16
"""Batches that are looked at: five eighths are measured, the rest is held back."""


def first_batches(batches: Iterable[Any]) -> list[Any]:
    """The first batches of a loader, a list or an iterator.

    No worker process is started: a DataLoader's samples are fetched and collated here.

    Raises:
        UnavailableError: there is none, or the loader raised.

    >>> len(first_batches(range(100)))
    16
    """
    taken: list[Any] = []
    try:
        for batch in islice(_without_workers(batches), MOST):
            taken.append(batch)  # noqa: PERF402  those before an error count
    except Exception as error:
        if not taken:
            raise UnavailableError(f"the loader raised at its first batch: {error_text(error)}") from error
    if not taken:
        raise UnavailableError("no batch came: an iterator can be used up")
    return taken


def _without_workers(batches: Iterable[Any]) -> Iterable[Any]:
    if type(batches) is not DataLoader or batches.num_workers == 0:
        return batches
    if isinstance(batches.dataset, IterableDataset):
        return DataLoader(
            batches.dataset,
            batch_size=batches.batch_size,
            collate_fn=batches.collate_fn,
            drop_last=batches.drop_last,
        )
    return DataLoader(batches.dataset, batch_sampler=batches.batch_sampler, collate_fn=batches.collate_fn)


def rows(batch: Any) -> int:
    """How many samples a batch has: the length of its first tensor; 0 where it has none.

    >>> import torch
    >>> rows({"x": torch.zeros(3, 2)}), rows("no tensor")
    (3, 0)
    """
    return next((len(leaf) for leaf in leaves_of(batch) if isinstance(leaf, Tensor) and leaf.ndim), 0)


def first_rows(batch: Any, count: int) -> Any:
    """A batch with its first samples alone; what has another length than its first tensor stays as it is.

    >>> import torch
    >>> [len(part) for part in first_rows((torch.zeros(8, 2), torch.zeros(8), torch.zeros(3)), 2)]
    [2, 2, 3]
    """
    every = rows(batch)
    return map_leaves(
        lambda leaf: leaf[:count] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == every else leaf,
        batch,
    )


@dataclass(frozen=True)
class Sizes:
    """How many samples a loader's batches have: most of them, and the last one; `shuffled` where that is known."""

    usual: int
    last: int
    shuffled: bool | None


@runtime_checkable
class KnowsSizes(Protocol):
    """A source of batches that tells itself how large they are."""

    def sizes(self) -> Sizes:
        """The sizes of all its batches."""


def sizes(batches: Any, taken: list[Any]) -> Sizes:
    """What is known of the sizes of all batches, without going through them.

    Raises:
        UnavailableError: the loader does not tell.

    >>> import torch
    >>> sizes(DataLoader(range(10), batch_size=4), [])
    Sizes(usual=4, last=2, shuffled=False)
    """
    if isinstance(batches, KnowsSizes):
        return batches.sizes()
    if isinstance(batches, (list, tuple)):
        every = [rows(batch) for batch in batches]
        return Sizes(max(every), every[-1], None)
    sampler = getattr(batches, "batch_sampler", None)
    if isinstance(batches, DataLoader) and type(sampler) is BatchSampler:
        try:
            samples = len(sampler.sampler)  # type: ignore[arg-type]
        except TypeError as error:
            raise UnavailableError("the loader does not know how many samples it has") from error
        usual = sampler.batch_size
        rest = 0 if sampler.drop_last else samples % usual
        shuffled = not isinstance(sampler.sampler, SequentialSampler)
        return Sizes(min(usual, samples), rest or min(usual, samples), shuffled)
    if len(taken) < MOST:
        every = [rows(batch) for batch in taken]
        return Sizes(max(every), every[-1], None)
    raise UnavailableError(
        "the batches are more than were looked at, and no DataLoader that tells their sizes"
    )
