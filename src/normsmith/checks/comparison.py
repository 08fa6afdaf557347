"""The same batches twice through a model in evaluation: as it is, and with something changed. Does the change pay?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from normsmith._text import count, error_text, number
from normsmith._torch import buffers_of
from normsmith.anatomy.float64 import in_float64
from normsmith.anatomy.forward import flat
from normsmith.checks.evaluations import Evaluations
from normsmith.checks.finding import UnavailableError
from normsmith.layers.batch_renorm import RenormBase
from normsmith.layers.statistics import StatisticsBase
from normsmith.measure import MeasuredLayer, Statistics, batch_statistics
from normsmith.measure.inputs import measured_inputs
from normsmith.measure.meter import Meter

LOSS = 0.05
"""A difference of the loss from which on it counts: of a cross-entropy, in nats."""
SHARE = 0.5
"""Of losses on a smaller scale: the share of the loss (the limit of TheDeepChecker for training against evaluation)."""
MOVED = 0.2
"""How far outputs move before it counts, in their own spread, where no loss tells: a share of 4 % of their variance."""

_T = (12.7, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
"""Student's t, one-sided 97.5 %, for 1 to 15 degrees of freedom."""

_SIGNS = 6
"""So many differences of one sign are no chance either (a sign test, 1/64), however much they vary."""


@dataclass(frozen=True)
class Comparison:
    """What batches come to as the model is, and with something changed: pairs (as it is, changed), one for each batch.

    - `losses`, `metrics`: empty where there is no such function.
    - `moved`: by how much the outputs differ, as a share of the spread of the changed model's outputs.
    - `point`: a difference of the metric that counts; `higher_is_better` is said of the metric.
    """

    losses: tuple[tuple[float, float], ...]
    metrics: tuple[tuple[float, float], ...]
    moved: float
    batches: int
    point: float = 0.01
    higher_is_better: bool = True

    @property
    def cost(self) -> str | None:
        """What it costs to leave the model as it is, in words; None where it costs nothing that counts.

        >>> Comparison(((0.9, 0.2), (0.8, 0.3), (1.0, 0.3)), (), 0.7, 3).cost
        'loss 0.9 instead of 0.267 on 3 batches'
        >>> Comparison(((0.0034, 0.0008), (0.0030, 0.0007)), (), 0.05, 2).cost is None
        True
        """
        return self.cost_where(MOVED)

    def cost_where(self, moved: float) -> str | None:
        """The same, where losses on a small scale, and outputs, only count if these move by so much of their spread."""
        on = f"on {count(self.batches, 'batch')}"
        sign = -1 if self.higher_is_better else 1
        loss_agrees = not self.losses or not _means(self.losses)[0] <= _means(self.losses)[1]
        metrics = [(sign * a, sign * b) for a, b in self.metrics]
        if metrics and loss_agrees and is_worse(metrics, self.point):
            now, then = _means(self.metrics)
            return f"metric {number(now)} instead of {number(then)} {on}"
        if self.losses:
            now, then = _means(self.losses)
            small = self.moved >= moved and abs(then) > 0
            if is_worse(self.losses, LOSS) or (small and is_worse(self.losses, SHARE * abs(then))):
                return f"loss {number(now)} instead of {number(then)} {on}"
            return None
        if self.moved >= moved and not self.metrics:
            return f"outputs are off by {number(100 * self.moved, 2)} % of their spread {on}"
        return None


def _means(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    now, then = zip(*pairs, strict=True)
    return sum(now) / len(now), sum(then) / len(then)


def is_worse(pairs: Sequence[tuple[float, float]], least: float) -> bool:
    """Whether the first of pairs of losses is larger by `least` on average, and beyond the noise between batches."""
    differences = [now - then for now, then in pairs if math.isfinite(then)]
    if any(not math.isfinite(difference) for difference in differences):
        return True
    if not differences:
        return False
    mean, n = sum(differences) / len(differences), len(differences)
    if n == 1:
        return mean >= least
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    always = n >= _SIGNS and min(differences) > 0
    return mean >= least and (always or mean > _T[min(n - 1, len(_T)) - 1] * deviation / math.sqrt(n))


@dataclass(frozen=True)
class Judge:
    """How outputs are judged: the task's loss and metric, either of which may be missing."""

    loss: Callable[[Any, Any], Any] | None
    metric: Callable[[Any, Any], Any] | None
    higher_is_better: bool
    point: float

    def loss_of(self, output: Any, target: Any) -> float | None:
        """The loss; None without a loss or without a target."""
        return None if self.loss is None or target is None else _called("loss", self.loss, output, target)

    def metric_of(self, output: Any, target: Any) -> float | None:
        """The metric; None without a metric or without a target."""
        return (
            None if self.metric is None or target is None else _called("metric", self.metric, output, target)
        )


def compared(
    evaluations: Evaluations,
    batches: Sequence[Any],
    changed: Callable[[], AbstractContextManager[None]],
    judge: Judge,
) -> Comparison:
    """Batches in evaluation, each as the model is and within `changed()`, with the same random numbers.

    Raises:
        UnavailableError: the model, the loss or the metric raised.
    """
    losses, metrics = [], []
    moved = spread = 0.0
    for batch in batches:
        (output, target), (other, _) = evaluations.result(batch), evaluations.changed(batch, changed)
        pairs = [(judge.loss_of(output, target), judge.loss_of(other, target))]
        losses += [(a, b) for a, b in pairs if a is not None and b is not None]
        pairs = [(judge.metric_of(output, target), judge.metric_of(other, target))]
        metrics += [(a, b) for a, b in pairs if a is not None and b is not None]
        for one, two in zip(_floats(output), _floats(other), strict=True):
            moved += float((one - two).square().sum())
            spread += float((two - two.mean(0)).square().sum()) if len(two) > 1 else 0.0
    share = math.sqrt(moved / spread) if spread > 0 and math.isfinite(moved) else math.inf
    return Comparison(
        tuple(losses),
        tuple(metrics),
        0.0 if moved == 0 else share,
        len(batches),
        judge.point,
        judge.higher_is_better,
    )


def _floats(output: Any) -> list[Tensor]:
    return [in_float64(tensor) for tensor in flat(output) if tensor.is_floating_point() and tensor.ndim]


def _called(name: str, function: Callable[[Any, Any], Any], output: Any, target: Any) -> float:
    try:
        value = function(output, target)
        return float(value.detach() if isinstance(value, Tensor) else value)
    except Exception as error:
        raise UnavailableError(f"the {name} raised {error_text(error)}") from error


@contextmanager
def normalising_by_batches(layers: Sequence[MeasuredLayer]) -> Iterator[None]:
    """A block in which layers normalise by each batch, as in training; the statistics that they hold do not move.

    Torch's layers go by the running statistics where a batch has a single value per channel, which training refuses;
    renorm always does, as in training nearly.
    """
    layers = [layer for layer in layers if not isinstance(layer.layer, RenormBase)]
    ours = [layer.layer for layer in layers if isinstance(layer.layer, StatisticsBase)]
    meters = [Meter(layer, layer.statistics()) for layer in layers if layer.layer not in ours]
    held = [(module, module.training, dict(buffers_of(module))) for module in ours]
    try:
        for module, _, buffers in held:  # they have rules of their own, as for ghost batches
            module.training = True
            buffers_of(module).update({name: t if t is None else t.clone() for name, t in buffers.items()})
        with measured_inputs(meters, batch_statistics, recorded=False, masked=False):
            yield
    finally:
        for module, mode, buffers in held:
            module.training = mode
            buffers_of(module).update(buffers)


@contextmanager
def normalising_by(layers: Sequence[MeasuredLayer], statistics: Sequence[Statistics]) -> Iterator[None]:
    """A block in which layers normalise by other statistics; those that they hold are not written to."""
    held = [layer.statistics() for layer in layers]
    try:
        for layer, other, own in zip(layers, statistics, held, strict=True):
            layer.normalise_by(other.like(own))
        yield
    finally:
        for layer, own in zip(layers, held, strict=True):
            layer.normalise_by(own)
