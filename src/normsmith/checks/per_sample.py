"""What reaches the batch norms from each sample by itself, and how much samples resemble each other by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normsmith.anatomy.forward import flat
from normsmith.checks.finding import UnavailableError

_MOST = 1024
"""Samples that are looked at: a table of their products is held."""


def most_samples(batches: int) -> int:
    """How many samples of each of so many batches are looked at.

    >>> most_samples(16)
    64
    """
    return max(_MOST // max(batches, 1), 2)


class SampleRows:
    """Of each sample of a batch the channel means and mean squares at the inputs of modules, over their calls.

    Run a forward within `watching()`, in evaluation mode, where a sample does not depend on its batch.
    """

    def __init__(self, modules: Sequence[nn.Module], samples: int, most: int) -> None:
        self._watched, self._samples, self._most = modules, max(samples, 1), most
        self._calls: list[list[Tensor]] = [[] for _ in modules]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A block in which the modules are watched."""
        with ExitStack() as stack:
            for module, calls in zip(self._watched, self._calls, strict=True):
                stack.callback(module.register_forward_pre_hook(self._hook(calls)).remove)
            yield

    def take(self) -> list[Tensor | None]:
        """For each module a table (samples, 2·channels) on the CPU; None where it got nothing of each sample.

        All are one piece of memory: what a forward leaves in small pieces lies between its large outputs.
        """
        means = [_mean(calls) for calls in self._calls]
        tables = [None if mean is None else mean.cpu() for mean in means]
        known = [table for table in tables if table is not None]
        if not known:
            return tables
        parts = iter(torch.split(torch.cat(known, 1), [table.shape[1] for table in known], 1))
        return [None if table is None else next(parts) for table in tables]

    def _hook(self, calls: list[Tensor]) -> Callable[..., None]:
        def enters(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            x = next(flat(arguments), None)
            if x is None or x.ndim < 2 or x.shape[0] % self._samples or not x.numel():
                return
            x = x.detach().reshape(self._samples, -1, *x.shape[1:])[: self._most].float()
            over = (1, *range(3, x.ndim))
            count = x.numel() // (x.shape[0] * x.shape[2])
            # the norm of a vector is its sum of squares, without a tensor of squares
            squares = torch.linalg.vector_norm(x, dim=over).square() / count
            calls.append(torch.cat([x.mean(over), squares], 1))

        return enters


def _mean(calls: list[Tensor]) -> Tensor | None:
    if not calls or len({call.shape for call in calls}) > 1:
        return None
    return calls[0] if len(calls) == 1 else torch.stack(calls).mean(0)


def products(batches: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """The products of each two samples, over all batches, from the tables of their modules; float64.

    Each module counts the same: its columns are standardised, and together have a variance of 1. Constant columns are
    left out.

    Raises:
        UnavailableError: no module got something of each sample that can be told apart.
    """
    total: Tensor | None = None
    for tables in zip(*batches, strict=True):
        known = [table for table in tables if table is not None]
        scaled = _scaled(torch.cat(known).double()) if len(known) == len(tables) else None
        if scaled is not None:
            one = scaled @ scaled.T / scaled.shape[1]
            total = one if total is None else total + one
    if total is None:
        raise UnavailableError("no batch norm gets something of each sample that can be told apart")
    return total


def _scaled(table: Tensor) -> Tensor | None:
    """The columns that vary, standardised; None where there are none."""
    table = table[:, table.isfinite().all(0)]
    if len(table) < 2 or table.shape[1] == 0:
        return None
    table = table[:, table.std(0) > 1e-6 * (table.abs().mean(0) + 1e-12)]
    return None if table.shape[1] == 0 else (table - table.mean(0)) / table.std(0)
