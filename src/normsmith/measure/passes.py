"""Passes of a loader's batches through a borrowed model, in which the inputs of its layers are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._torch import buffers_of, leaves_of, version_of
from normsmith.anatomy.forward import Forward, call, copied, flat
from normsmith.anatomy.isolation import eager_forwards, same_random_numbers
from normsmith.anatomy.preserve import preserved
from normsmith.layers import use_mask
from normsmith.layers.batches import Select, tensor_of_batch
from normsmith.layers.statistics import StatisticsBase
from normsmith.measure.across_ranks import PassResult, Together, merged_across_ranks
from normsmith.measure.inputs import CurrentBatch, measured_inputs
from normsmith.measure.layers import MeasuredLayer
from normsmith.measure.meter import Meter, merged_on_cpu, packed
from normsmith.measure.statistics import BatchRule, Statistics
from normsmith.ops import Moments

Loss = Callable[[Any, Any], Tensor | float]
"""From what the forward returned and the batch to the batch's mean loss."""

_SAMPLED = 40
_MOST_SAMPLED = 8


class BatchSample:
    """Some batches of a pass, evenly spread, with the moments that each layer had in them.

    A loader may not know its length: at first every 40th batch is kept; whenever there would be more than 8, every
    other one is dropped.
    """

    def __init__(self) -> None:
        self._stride = _SAMPLED
        self._entries: dict[int, tuple[Any, list[tuple[MeasuredLayer, Moments]]]] = {}

    def add(self, number: int, batch: Any) -> list[tuple[MeasuredLayer, Moments]] | None:
        """A list for the moments of the layers in a batch; None if the batch is not part of the sample."""
        if number % self._stride:
            return None
        if len(self._entries) == _MOST_SAMPLED:
            self._stride *= 2  # of which this number, 8 times the old stride, is a multiple too
            self._entries = {key: entry for key, entry in self._entries.items() if key % self._stride == 0}
        moments: list[tuple[MeasuredLayer, Moments]] = []
        self._entries[number] = (batch, moments)
        return moments

    @property
    def batches(self) -> list[Any]:
        """The batches, in order."""
        return [batch for batch, _ in self._entries.values()]

    def result(self, layers: Sequence[MeasuredLayer]) -> PassResult:
        """The moments of each layer over the sample."""
        parts: dict[MeasuredLayer, list[Moments]] = {layer: [] for layer in layers}
        for _, moments in self._entries.values():
            for layer, part in moments:
                parts[layer].append(part)
        return PassResult(tuple(merged_on_cpu(parts[layer]) for layer in layers))


class EveryCall:
    """The moments of each call of each layer, batch by batch; the batches themselves are not kept."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[MeasuredLayer, Moments]]] = []

    def add(self, number: int, batch: Any) -> list[tuple[MeasuredLayer, Moments]]:
        """A list for the moments of the layers in a batch."""
        self.batches.append([])
        return self.batches[-1]


Sample = BatchSample | EveryCall


@dataclass(frozen=True)
class Passes:
    """How the batches of a loader go through a model, and whose inputs are measured.

    - `layers`: the layers to measure, from `measurable_layers`.
    - `forward`: `forward(model, batch)`; by default the usual one.
    - `mask`: what of a batch tells its valid elements: a key, an index or a function of the batch.
    - `dropout`: whether all layers but those with running statistics are in training mode.
    - `group`: the ranks or parties that measure together, from `group_of`.

    >>> from normsmith.measure import measurable_layers
    >>> model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 2), nn.BatchNorm1d(2))
    >>> passes = Passes(model, measurable_layers(model).layers)
    >>> with passes.borrowed_model():
    ...     result = passes.run([torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0]])])
    >>> result.samples, [moments.count.item() for moments in result.moments]
    (3, [3.0, 3.0])
    >>> result.moments[0].mean
    tensor([[3.]], dtype=torch.float64)
    """

    model: nn.Module
    layers: tuple[MeasuredLayer, ...]
    forward: Forward = call
    mask: Select = None
    dropout: bool = False
    group: Together = None

    @contextmanager
    def borrowed_model(self) -> Iterator[None]:
        """A block for passes: the model is in evaluation mode (but for dropout), and after it as it was before."""
        with preserved(self.model), self.prepared_model():
            yield

    @contextmanager
    def prepared_model(self) -> Iterator[None]:
        """The modes for passes, of a model whose state the caller puts back: that takes a copy of all its tensors."""
        with eager_forwards(), torch.no_grad():
            self.model.train(self.dropout)
            for module in self.model.modules():
                if "running_mean" in buffers_of(module):
                    module.training = False
            yield

    def run(
        self,
        batches: Iterable[Any],
        statistics: Sequence[Statistics] | None = None,
        rule: BatchRule | None = None,
        *,
        loss: Loss | None = None,
        sample: Sample | None = None,
    ) -> PassResult:
        """One pass of all ranks over their batches, within `borrowed_model()`.

        Args:
            batches: those of this rank.
            statistics: what each layer normalises by, in the order of the layers; None for what the layers hold.
            rule: what a layer normalises by instead, computed for every batch (`batch_statistics`, as in training).
            loss: its mean over the samples is part of the result.
            sample: gets the moments of each call, in some of the batches or in all.

        Raises:
            SyncError: another rank failed, or did not arrive in time.
        """
        held = [layer.statistics() for layer in self.layers]
        own = [mine.like(old) for old, mine in zip(held, statistics or held, strict=True)]
        meters = [Meter(layer, mine) for layer, mine in zip(self.layers, own, strict=True)]
        try:
            for meter in meters:
                meter.measured.normalise_by(meter.own)
            work = partial(self._pass, batches, meters, rule, loss, sample)
            return merged_across_ranks(work, self.group, again=sample is not None)
        finally:
            for layer, old in zip(self.layers, held, strict=True):
                layer.normalise_by(old)

    def _pass(
        self,
        batches: Iterable[Any],
        meters: list[Meter],
        rule: BatchRule | None,
        loss: Loss | None,
        sample: Sample | None,
    ) -> PassResult:
        """The part of a pass that this rank makes alone."""
        total_loss, samples = 0.0, 0
        called: list[Meter] = []
        masked = self.mask is not None
        with same_random_numbers(self.model), measured_inputs(meters, rule, masked=masked) as current:
            writes = True
            for number, batch in enumerate(batches):
                sampled = None if sample is None else sample.add(number, batch)
                current.mask = None if self.mask is None else tensor_of_batch(batch, self.mask, "mask")
                given = copied(batch) if writes else batch  # a loader may give the same tensors in every pass
                versions = [version_of(tensor) for tensor in flat(given)]
                with self._mask_in_force(current.mask):
                    output = self.forward(self.model, given)
                writes = writes and versions != [version_of(tensor) for tensor in flat(given)]
                rows = _rows(batch)
                samples += rows
                if loss is not None:
                    total_loss += rows * float(loss(output, batch))
                del output  # its memory is for the next batch: fresh pages cost as much as the norms
                called = max(called, [meter for meter, _ in current.calls], key=len)
                _count(current, sampled)
        numbers = {id(meter): number for number, meter in enumerate(meters)}
        calls = tuple(numbers[id(meter)] for meter in called)
        moments = tuple(meter.take() for meter in meters)
        return PassResult(moments, total_loss / max(samples, 1), samples, calls)

    def _mask_in_force(self, mask: Tensor | None) -> AbstractContextManager[None]:
        if mask is None or not any(isinstance(module, StatisticsBase) for module in self.model.modules()):
            return nullcontext()
        return use_mask(self.model, mask)


def _count(current: CurrentBatch, sampled: list[tuple[MeasuredLayer, Moments]] | None) -> None:
    """Give the moments of a batch to the meters, and to the sample that it is part of."""
    parts = packed([moments for _, moments in current.calls])
    for (meter, _), part in zip(current.calls, parts, strict=True):
        meter.add(part)
        if sampled is not None:
            sampled.append((meter.measured, part))
    current.calls = []


def _rows(batch: Any) -> int:
    """How many samples a batch has: the length of its first tensor."""
    return next((len(leaf) for leaf in leaves_of(batch) if isinstance(leaf, Tensor) and leaf.ndim), 1)
