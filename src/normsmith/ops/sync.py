"""Ranks that share one batch: how their statistics are merged, on any backend of torch.distributed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from normsmith._torch import differentiable_sum, timeout_of
from normsmith.errors import SyncError
from normsmith.ops._shapes import PerGroup
from normsmith.ops.moments import Moments, merge


class Sync:
    """A process group over which statistics are merged.

    Every rank must reach every exchange, with a batch of any size: an empty one counts for nothing.

    Args:
        group: the process group; preferably one that is used for nothing else (see `own_group`).
        name: gives the name of the layer for errors.
    """

    def __init__(self, group: dist.ProcessGroup, name: Callable[[], str] = lambda: "batch norm") -> None:
        self.group = group
        self.name = name
        self.ranks = dist.get_world_size(group)
        self.rank = dist.get_rank(group)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks. It can be differentiated and compiled.

        Raises:
            SyncError: a rank did not arrive in time, or has ended.
        """
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and tensor.requires_grad):
            return differentiable_sum(tensor, self.group)
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        try:
            dist.all_reduce(total, group=self.group)
        except RuntimeError as error:
            raise SyncError(
                f"{self.name()}: expected all {self.ranks} ranks to exchange statistics, rank {self.rank} got "
                f"none in time ({_first_line(error)}); every rank must run this layer equally often, in training "
                "and in backward"
            ) from error
        return total

    def merge(self, moments: Moments) -> Moments:
        """Merge the moments of all ranks by Chan's formula."""
        m2 = moments.m2
        # numbers are written where the sums are: a copy from the host would wait for the device
        mine = torch.stack(
            [
                row.to(m2).expand_as(m2) if isinstance(row, torch.Tensor) else torch.full_like(m2, row)
                for row in (moments.count, moments.mean, m2, moments.squares, moments.low)
            ]
        )
        # each rank fills its row of a table of zeros: a sum is the one exchange that every backend has
        every = self.sum(torch.nn.functional.pad(mine, (0, 0, self.rank, self.ranks - self.rank - 1)))
        count, mean, m2, squares, low = every.unbind()
        return merge(Moments(count[:, :1], mean, m2, squares[:, :1], low))

    def average(self, values: list[PerGroup], enough: Tensor) -> tuple[list[Tensor], Tensor]:
        """The mean over those groups of all ranks that have enough values, and whether there is any such group."""
        rows = [torch.where(enough, value, 0.0).sum(0) for value in values]
        number = enough.to(values[0].dtype).sum(0).expand_as(rows[0])
        *sums, number = self.sum(torch.stack([*rows, number])).unbind()
        return [row / number.clamp(min=1) for row in sums], number > 0


def own_group(parent: dist.ProcessGroup, name: Callable[[], str]) -> dist.ProcessGroup:
    """A group of the same ranks that only one layer uses, created collectively; on NCCL the parent itself.

    In a gloo group that is used for other exchanges too, a rank that does not arrive goes unnoticed: its next
    exchange, for example one of gradients, is summed with our statistics. In a group of its own the layer raises
    after a timeout. NCCL orders its exchanges by stream, its communicators cost memory, and its watchdog looks for
    missing ranks.

    Raises:
        SyncError: a rank did not arrive in time.
    """
    if dist.get_backend(parent) == "nccl":
        return parent
    timeout = timeout_of(parent)
    try:
        group = dist.new_group(
            dist.get_process_group_ranks(parent), timeout=timeout, use_local_synchronization=True
        )
    except RuntimeError as error:
        raise SyncError(
            f"{name()}: expected all {dist.get_world_size(parent)} ranks to join the layer's first training "
            f"forward; not all did in time ({_first_line(error)})"
        ) from error
    if not isinstance(group, dist.ProcessGroup):
        raise SyncError(f"{name()}: this process is not a member of the process group it was given")
    return group


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
