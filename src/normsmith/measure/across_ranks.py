"""Passes that several ranks make together: which ranks, and how what each of them measured is merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normsmith._text import error_text
from normsmith.errors import InputError, SyncError
from normsmith.measure.meter import merged_on_cpu
from normsmith.ops import Moments

Group = dist.ProcessGroup | Literal["world"] | None


@dataclass(frozen=True)
class PassResult:
    """What one pass over the batches measured.

    - `moments`: of the inputs of each layer, in float64 on the CPU; None for a layer that was not called.
    - `calls`: the numbers of the layers in the order in which they were called, in the forward with the most calls.
    - `loss`: the mean over the samples; 0 where no loss was asked for.
    - `samples`: how many there were.
    """

    moments: tuple[Moments | None, ...]
    loss: float = 0.0
    samples: int = 0
    calls: tuple[int, ...] = ()

    @property
    def repeated(self) -> tuple[int, ...]:
        """The numbers of the layers that were called more than once in that forward."""
        return tuple(number for number, times in Counter(self.calls).items() if times > 1)


@dataclass(frozen=True)
class RankFailure:
    """Why a rank has no result of a pass: its error, in one line."""

    error: str


def group_of(model: nn.Module, group: Group) -> dist.ProcessGroup | None:
    """The ranks to measure with: those given, else those of a DistributedDataParallel model, else none.

    Raises:
        InputError: a group is given that is none, or torch.distributed is not initialised.
    """
    if group is None:
        return model.process_group if isinstance(model, DistributedDataParallel) else None
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "group: expected torch.distributed to be initialised, got no default group; call "
            "torch.distributed.init_process_group, or drop group"
        )
    if isinstance(group, str) and group != "world":
        raise InputError(f"group: expected a process group, 'world' or None, got {group!r}")
    return dist.group.WORLD if isinstance(group, str) else group


def merged_across_ranks(work: Callable[[], PassResult], group: dist.ProcessGroup | None) -> PassResult:
    """Do this rank's work, and merge its result with those of all ranks, which get the same.

    Ranks with fewer batches wait. An error on one rank is told to all, so that none waits for ever.

    Raises:
        SyncError: another rank failed, or did not arrive in time.
    """
    if group is None:
        return work()
    try:
        mine = work()
    except Exception as error:
        _gathered(RankFailure(error_text(error)), group)
        raise
    every = _gathered(mine, group)
    for rank, result in enumerate(every):
        if isinstance(result, RankFailure):
            raise SyncError(
                f"expected all {len(every)} ranks to finish their pass, rank {rank} had {result.error}"
            )
    return _merged([result for result in every if isinstance(result, PassResult)])


def _gathered(mine: PassResult | RankFailure, group: dist.ProcessGroup) -> list[PassResult | RankFailure]:
    """What every rank sends, in the order of the ranks: its result, or the error that it had."""
    every: list[Any] = [None] * dist.get_world_size(group)
    try:
        dist.all_gather_object(every, mine, group=group)
    except RuntimeError as error:
        raise SyncError(
            f"expected all {len(every)} ranks to exchange what they measured, rank {dist.get_rank(group)} "
            f"got nothing in time ({error}); every rank must make this call, with a loader of any length"
        ) from error
    return every


def _merged(results: Sequence[PassResult]) -> PassResult:
    columns = zip(*(result.moments for result in results), strict=True)
    moments = tuple(merged_on_cpu([part for part in column if part is not None]) for column in columns)
    samples = sum(result.samples for result in results)
    loss = sum(result.loss * result.samples for result in results)
    calls = max((result.calls for result in results), key=len)
    return PassResult(moments, loss / max(samples, 1), samples, calls)
