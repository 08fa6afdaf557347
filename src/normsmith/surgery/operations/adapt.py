"""Batch norm that goes by the data it meets at test time, for a block of code."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normsmith._choices import check_choice
from normsmith._torch import buffers_of
from normsmith.anatomy.broken_statistics import broken_statistics
from normsmith.anatomy.forward import Forward, call, check_runnable, unwrapped
from normsmith.anatomy.isolation import eager_forwards
from normsmith.anatomy.remark import Remark
from normsmith.anatomy.select import Only
from normsmith.errors import InputError, SurgeryError
from normsmith.layers.batches import Select
from normsmith.measure.across_ranks import Group, group_of
from normsmith.measure.fixed_point import EXACT
from normsmith.measure.inputs import measured_inputs
from normsmith.measure.layers import MeasuredLayer, measurable_layers
from normsmith.measure.meter import Meter
from normsmith.measure.passes import Passes
from normsmith.measure.population import Population
from normsmith.measure.statistics import BatchRule, PopulationRule, Statistics
from normsmith.ops import Moments


@contextmanager
def adapt(
    model: nn.Module,
    loader: Iterable[Any] | None = None,
    *,
    prior: float | None = None,
    source_samples: int | None = None,
    mode: Literal["fast", "exact"] = "fast",
    only: Only = None,
    forward: Forward = call,
    mask: Select = None,
    group: Group = None,
) -> Iterator[nn.Module]:
    """Within the block, batch norm layers normalise by a mixture of two statistics, those of source and target.

        μ = prior·μ_source + (1 − prior)·μ_target        σ² = prior·σ²_source + (1 − prior)·σ²_target

    The source is the data that the running statistics come from, the target unlabelled data of the domain that is
    tested. `prior`, the source's share, is a number from 0 to 1, or N / (N + n) with N = `source_samples` and n the
    number of the target's samples: the source then counts as much as N samples of the target. With prior=1 the model
    is as it is; with prior=0 and whole batches it normalises as batch norm does in training.

    Without a loader, every batch that goes through the model is its own target (n: its rows), and outputs depend on
    what else is in the batch. With a loader, its batches are the target, measured beforehand; then outputs do not.
    σ²_target is the biased variance. A target of a single value per channel has none: the source is used.

    After the block the model is as it was, bit for bit: buffers, counters, modes, also when it raises. Layers that
    a user has frozen stay as they are, as in `recalibrate`. Inside, the layers are in evaluation mode, and the
    statistics are constants to gradients; compiled models run eagerly, and every thread sees what is adapted.

    Args:
        model: a trained model.
        loader: batches of the target domain; None: every batch itself.
        prior: the source's share, 0 to 1.
        source_samples: N; either this or `prior`.
        mode, group: with a loader, as in `recalibrate`.
        only: patterns of paths such as "layer1.*", or a function (path, module) → bool.
        forward: with a loader, how a batch goes through the model, as in `recalibrate`.
        mask: with a loader, what of a batch is its mask; without one, use `use_mask` or the layers' own arguments.

    Raises:
        InputError: an argument does not fit, or no batch came.
        SurgeryError: a layer cannot be adapted, because its running statistics are negative or not finite for example,
            or there is none.

    >>> model = nn.Sequential(nn.BatchNorm1d(1, affine=False, eps=0.0)).eval()
    >>> x = torch.tensor([[3.0], [5.0]])
    >>> with adapt(model, prior=0.5):
    ...     model(x).flatten()
    tensor([1., 3.])
    >>> model(x).flatten()
    tensor([3., 5.])

    Source: Schneider et al. (2020), arXiv:2006.16971.
    """
    check_choice("mode", mode, ("fast", "exact"))
    mixture = _mixture(prior, source_samples)
    layers = measurable_layers(model, only).all_for("adapt")
    _check_source(layers)
    inner = unwrapped(model)
    check_runnable(inner)
    held = [layer.statistics() for layer in layers]
    own = [_copied(statistics) for statistics in held]
    with _restored(layers, held), eager_forwards():
        if loader is None:
            meters = [Meter(layer, source) for layer, source in zip(layers, own, strict=True)]
            with measured_inputs(meters, _for_each_batch(mixture), recorded=False):
                yield model
            return
        settings = f"{mode} prior={prior} {source_samples} {[layer.path for layer in layers]}"
        passes = Passes(inner, layers, forward, mask, group=group_of(model, group, settings=settings))
        population = Population(passes, loader, own, _for_each_batch(mixture), mixture)
        with passes.borrowed_model():
            result = population.fast("none") if mode == "fast" else population.exact()
        if mode == "exact" and not result.gap <= EXACT:
            warnings.warn(
                f"adapt: expected a gap of at most {EXACT:.0e} in the exact mode, got {result.gap:.1e} after "
                f"{result.passes} passes: the layers' statistics are not quite those of their inputs",
                stacklevel=3,
            )
        for layer, source, mixed in zip(layers, own, result.statistics, strict=True):
            layer.normalise_by(mixed.like(source))
        with _evaluating(layers):
            yield model


def _check_source(layers: Sequence[MeasuredLayer]) -> None:
    """Raise SurgeryError for running statistics that cannot be mixed with others, because they are broken."""
    broken = [
        Remark(layer.path, fault.advice)
        for layer in layers
        if (fault := broken_statistics(layer.layer)) is not None
    ]
    if broken:
        raise SurgeryError("adapt: " + "; ".join(remark.text for remark in broken))


def _copied(statistics: Statistics) -> Statistics:
    mean, var, std = statistics
    return Statistics(mean.clone(), var.clone(), None if std is None else std.clone())


def _for_each_batch(mixture: PopulationRule) -> BatchRule:
    """The same mixture with every batch as the target, in the dtypes that the layer holds."""

    def rule(epsilon: float, source: Statistics, moments: Moments, samples: int) -> Statistics:
        return mixture(epsilon, source, moments, samples).like(source)

    return rule


def _mixture(prior: float | None, source_samples: int | None) -> PopulationRule:
    """How source and target are mixed, whether the target is one batch or many."""
    if (prior is None) == (source_samples is None):
        raise InputError(
            "adapt: expected prior or source_samples, got both or neither; prior=0.9 takes nine parts of the source, "
            "source_samples=16 as many as 16 samples are worth beside the target's"
        )
    if prior is not None and not 0 <= prior <= 1:
        raise InputError(f"prior: expected a number from 0 to 1, got {prior!r}")
    if source_samples is not None and source_samples < 0:
        raise InputError(f"source_samples: expected a number of at least 0, got {source_samples!r}")

    def mixture(epsilon: float, source: Statistics, moments: Moments, samples: int) -> Statistics:
        share = source_samples / (source_samples + samples) if prior is None else prior  # type: ignore[operator]
        enough = torch.as_tensor(moments.enough, device=moments.mean.device).view(-1)

        def between(ours: Tensor, theirs: Tensor) -> Tensor:
            ours = ours.to(theirs)
            return torch.where(enough, share * ours + (1 - share) * theirs, ours)

        variance = moments.variance[0]
        deviation = (variance + epsilon).sqrt()
        return Statistics(
            between(source.mean, (moments.mean + moments.low)[0]),
            between(source.var, variance),
            None if source.std is None else between(source.std, deviation),
        )

    return mixture


@contextmanager
def _evaluating(layers: Sequence[MeasuredLayer]) -> Iterator[None]:
    """The layers are in evaluation mode at every call, in spite of somebody's `.train()`."""

    def evaluate(layer: nn.Module, _: Any) -> None:
        layer.training = False

    handles = [layer.layer.register_forward_pre_hook(evaluate) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _restored(layers: Sequence[MeasuredLayer], held: Sequence[Statistics]) -> Iterator[None]:
    """After the block the layers have the buffers, counters and modes that they had before, whatever happens in it."""
    modes = [layer.layer.training for layer in layers]
    counters = [buffers_of(layer.layer).get("num_batches_tracked") for layer in layers]
    counts = [None if counter is None else counter.clone() for counter in counters]
    try:
        yield
    finally:
        for layer, statistics, mode, counter, count in zip(
            layers, held, modes, counters, counts, strict=True
        ):
            layer.normalise_by(statistics)
            layer.layer.training = mode
            if counter is not None and count is not None:
                counter.copy_(count)
