"""Passes over batches with the model lent: forwards, masks, losses, and what ranks tell each other of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from normsmith.anatomy.forward import Forward
from normsmith.anatomy.isolation import eager_forwards, same_random_numbers
from normsmith.anatomy.preserve import preserved
from normsmith.errors import InputError, SyncError
from normsmith.layers import use_mask
from normsmith.layers._statistics import StatisticsBase
from normsmith.layers._whole_set import Select, selected
from normsmith.measure.layers import Measured, Statistics
from normsmith.measure.meter import Blend, Meter, in_dtype_of, listening, on_cpu
from normsmith.ops import Moments

Loss = Callable[[Any, Any], Tensor | float]
"""From what the forward returned and the batch to the batch's mean loss."""
Group = dist.ProcessGroup | Literal["world"] | None

_SAMPLED = 40
_MOST_SAMPLED = 8


@dataclass(frozen=True)
class Found:
    """What a pass found: moments of each layer, in float64 (None: it was not called), and the mean loss."""

    moments: tuple[Moments | None, ...]
    loss: float = 0.0
    samples: int = 0


class Sample:
    """Some batches of a pass, evenly spread, with what each layer found in them; for one of unknown length.

    One of 40 at first; with more than 8, every other one is dropped.
    """

    def __init__(self) -> None:
        self._stride = _SAMPLED
        self._entries: dict[int, tuple[Any, list[tuple[Measured, Moments]]]] = {}

    def enter(self, number: int, batch: Any) -> list[tuple[Measured, Moments]] | None:
        """Where to write what is found in a batch; None: it is not part of the sample."""
        if number % self._stride:
            return None
        if len(self._entries) == _MOST_SAMPLED:
            self._stride *= 2
            self._entries = {key: entry for key, entry in self._entries.items() if key % self._stride == 0}
            if number % self._stride:
                return None
        found: list[tuple[Measured, Moments]] = []
        self._entries[number] = (batch, found)
        return found

    @property
    def batches(self) -> list[Any]:
        """The batches, in order."""
        return [batch for batch, _ in self._entries.values()]

    def found(self, measured: Sequence[Measured]) -> Found:
        """The moments of each layer over the sample."""
        parts: dict[Measured, list[Moments]] = {layer: [] for layer in measured}
        for _, heard in self._entries.values():
            for layer, part in heard:
                parts[layer].append(part)
        return Found(tuple(on_cpu(parts[layer]) for layer in measured))


@dataclass(frozen=True)
class Walk:
    """How to send the batches of a loader through a model."""

    model: nn.Module
    measured: tuple[Measured, ...]
    forward: Forward
    mask: Select = None
    dropout: bool = False
    group: dist.ProcessGroup | None = None

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Borrow the model for the passes within the block."""
        with preserved(self.model), eager_forwards(), torch.no_grad():
            self.model.train(self.dropout)
            for module in self.model.modules():
                if "running_mean" in module._buffers:
                    module.training = False
            yield

    def through(
        self,
        batches: Iterable[Any],
        goes_by: Sequence[Statistics],
        blend: Blend | None = None,
        *,
        loss: Loss | None = None,
        sample: Sample | None = None,
    ) -> Found:
        """One pass of all ranks with every layer on `goes_by`, or on what `blend` makes of it and the batch.

        Raises:
            SyncError: another rank failed, or did not arrive in time.
        """
        held = [layer.held() for layer in self.measured]
        own = [in_dtype_of(*pair) for pair in zip(held, goes_by, strict=True)]
        meters = [Meter(layer, statistics) for layer, statistics in zip(self.measured, own, strict=True)]
        try:
            for meter in meters:
                meter.measured.lend(meter.own)
            return self.together(lambda: self._pass(batches, meters, blend, loss, sample))
        finally:
            for layer, statistics in zip(self.measured, held, strict=True):
                layer.lend(statistics)

    def together(self, work: Callable[[], Found]) -> Found:
        """What all ranks found; the ranks with fewer batches wait, and an error of one is told to all."""
        if self.group is None:
            return work()
        try:
            mine: Found | str = work()
        except Exception as error:
            self._shared(f"{type(error).__name__}: {error}")
            raise
        every = self._shared(mine)
        for rank, found in enumerate(every):
            if isinstance(found, str):
                raise SyncError(
                    f"expected all {len(every)} ranks to finish their pass, rank {rank} had {found}"
                )
        return _merged([found for found in every if isinstance(found, Found)])

    def _shared(self, mine: Found | str) -> list[Found | str]:
        every: list[Any] = [None] * dist.get_world_size(self.group)
        try:
            dist.all_gather_object(every, mine, group=self.group)
        except RuntimeError as error:
            raise SyncError(
                f"expected all {len(every)} ranks to exchange what they measured, rank {dist.get_rank(self.group)} "
                f"got nothing in time ({error}); every rank must make this call, with a loader of any length"
            ) from error
        return every

    def _pass(
        self,
        batches: Iterable[Any],
        meters: list[Meter],
        blend: Blend | None,
        loss: Loss | None,
        sample: Sample | None,
    ) -> Found:
        lost, samples = 0.0, 0
        masked = self.mask is not None
        with same_random_numbers(self.model), listening(meters, blend, masked=masked) as now:
            for number, batch in enumerate(batches):
                now.sampled = None if sample is None else sample.enter(number, batch)
                now.mask = None if self.mask is None else selected(batch, self.mask, "mask")
                with self._masked(now.mask):
                    output = self.forward(self.model, batch)
                rows = _rows(batch)
                samples += rows
                if loss is not None:
                    lost += rows * float(loss(output, batch))
                del output  # its memory is for the next batch: fresh pages cost as much as the norms
        return Found(tuple(meter.taken() for meter in meters), lost / max(samples, 1), samples)

    def _masked(self, mask: Tensor | None) -> AbstractContextManager[None]:
        if mask is None or not any(isinstance(module, StatisticsBase) for module in self.model.modules()):
            return nullcontext()
        return use_mask(self.model, mask)


def group_of(model: nn.Module, group: Group) -> dist.ProcessGroup | None:
    """The ranks to measure with: those given, else those of a DistributedDataParallel model, else none."""
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


def _merged(every: Sequence[Found]) -> Found:
    columns = zip(*(found.moments for found in every), strict=True)
    moments = tuple(on_cpu([part for part in column if part is not None]) for column in columns)
    samples = sum(found.samples for found in every)
    lost = sum(found.loss * found.samples for found in every)
    return Found(moments, lost / max(samples, 1), samples)


def _rows(batch: Any) -> int:
    """How many samples a batch has: the length of its first tensor."""
    return next((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), 1)
