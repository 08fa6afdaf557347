"""Passes that several ranks or parties make together: which, and how what each of them measured is merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from normsmith._text import error_text
from normsmith.anatomy.forward import unwrapped
from normsmith.errors import InputError, SyncError
from normsmith.measure.fingerprint import fingerprint
from normsmith.measure.folder_group import FolderExchange, FolderGroup
from normsmith.measure.layers import MeasuredLayer
from normsmith.measure.meter import merged_on_cpu
from normsmith.ops import Moments

Group = dist.ProcessGroup | FolderGroup | Literal["world"] | None
"""What a caller names those by who measure together."""

Together = dist.ProcessGroup | FolderExchange | None
"""Those who measure together: ranks of torch.distributed, parties with a shared folder, or None for nobody else."""


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

    def to_plain(self) -> dict[str, Any]:
        """The same as what JSON holds, to the last digit."""
        return {
            "moments": [None if part is None else _plain(part) for part in self.moments],
            "loss": self.loss,
            "samples": self.samples,
            "calls": list(self.calls),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> PassResult:
        """What `to_plain` made, read again.

        >>> PassResult.from_plain(PassResult((None,), 0.5, 3, (0, 0)).to_plain())
        PassResult(moments=(None,), loss=0.5, samples=3, calls=(0, 0))
        """
        moments = tuple(None if part is None else _moments(part) for part in plain["moments"])
        return cls(moments, float(plain["loss"]), int(plain["samples"]), tuple(map(int, plain["calls"])))


@dataclass(frozen=True)
class RankFailure:
    """Why a rank has no result of a pass: its error, in one line."""

    error: str


def group_of(
    model: nn.Module, group: Group, apart: Iterable[MeasuredLayer] = (), settings: str = ""
) -> Together:
    """Those to measure with: the ones given, else the ranks of a DistributedDataParallel model, else none.

    Args:
        model, group: as the caller was given them.
        apart: layers whose running statistics may differ between parties, whose models are the same otherwise.
        settings: what else parties must have in common, in words.

    Raises:
        InputError: a group is given that is none, or torch.distributed is not initialised.
        SyncError: a party with a shared folder has another model, or is not there in time.
    """
    if group is None:
        return model.process_group if isinstance(model, DistributedDataParallel) else None
    if isinstance(group, FolderGroup):
        return FolderExchange(group, {"(settings)": settings, **fingerprint(unwrapped(model), apart)})
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "group: expected torch.distributed to be initialised, got no default group; call "
            "torch.distributed.init_process_group, or drop group"
        )
    if isinstance(group, str) and group != "world":
        raise InputError(f"group: expected a process group, a FolderGroup, 'world' or None, got {group!r}")
    return dist.group.WORLD if isinstance(group, str) else group


def merged_across_ranks(
    work: Callable[[], PassResult], group: Together, *, again: bool = False
) -> PassResult:
    """Do this rank's work, and merge its result with those of all ranks, which get the same.

    Ranks with fewer batches wait. An error on one rank is told to all, so that none waits for ever. Of parties with a
    shared folder, one that was stopped does not do work again whose result it has sent, unless `again` says so.

    Raises:
        SyncError: another rank failed, or did not arrive in time.
    """
    if group is None:
        return work()
    if isinstance(group, FolderExchange):
        return _merged(group.gather(work, PassResult.to_plain, PassResult.from_plain, again=again))
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


def _plain(moments: Moments) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, Tensor) else value
        for name, value in moments._asdict().items()
    }


def _moments(plain: Mapping[str, Any]) -> Moments:
    def tensor(value: Any) -> Any:
        return torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else float(value)

    return Moments(**{name: tensor(plain[name]) for name in Moments._fields})
