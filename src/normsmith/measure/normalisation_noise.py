"""Normalisation noise: what a batch norm adds in training because a batch's statistics are not those of the data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from normsmith.anatomy.forward import Forward, call, unwrapped
from normsmith.anatomy.select import Only
from normsmith.errors import InputError
from normsmith.measure.both_modes import Difference, outputs_in_training
from normsmith.measure.layers import measurable_layers
from normsmith.measure.meter import has_variance
from normsmith.measure.passes import Passes
from normsmith.measure.statistics import batch_statistics, population_statistics


def normalisation_noise(
    model: nn.Module, batches: Iterable[Any], forward: Forward = call, only: Only = None
) -> dict[str, float]:
    """The noise that each batch norm adds in training, because a batch's statistics are not those of the data.

        noise = √(mean over channels of E[(y_batch − y_population)²] / Var[y_batch])

    where y_population is what the layer would give for the same input if it normalised by the statistics of all
    batches together. For independent normal values it is √(1.5 / n), with n values a channel in a batch: √(1 / n)
    from the mean and √(0.5 / n) from the standard deviation. Ghost batches and renorm are measured as they train. All
    but the norms is in evaluation mode, so that dropout does not add to it.

    Args:
        model: any module; nothing in it is changed, running statistics neither.
        batches: what `forward` takes, such as a DataLoader, each as large as those in training. A few batches are not
            the population: of k batches the noise is too small by a share of about 1 / 2k.
        forward: `forward(model, batch)`; by default the first part of a batch goes in.
        only: patterns of paths such as "layer1.*", or a function (path, module) → bool.

    Returns the noise in standard deviations, for each layer that keeps running statistics and was called, by its path.

    Raises InputError where there is no batch.

    Source: Luo, Wang, Shao and Peng, "Towards Understanding Regularization in Batch Normalization", ICLR 2019.

    >>> import torch
    >>> noise = normalisation_noise(nn.BatchNorm1d(8), list(torch.randn(400, 24, 8)))[""]
    >>> 0.23 < noise < 0.27  # √(1.5 / 24) = 0.25
    True
    """
    model = unwrapped(model)
    layers = measurable_layers(model, only).layers
    batches = list(batches) if isinstance(batches, Iterator) else batches
    passes = Passes(model, layers, forward)
    with passes.borrowed_model():
        measured = passes.run(batches, rule=batch_statistics)
    if not measured.samples:
        raise InputError(
            "normalisation_noise: expected at least one batch, got none; an iterator can be used up"
        )
    population = [
        population_statistics(layer.epsilon, layer.statistics(), moments)
        if moments is not None and has_variance(moments)
        else layer.statistics().copied()
        for layer, moments in zip(layers, measured.moments, strict=True)
    ]
    noise: dict[str, Difference] = defaultdict(Difference)
    for batch in batches:
        training, denoised = outputs_in_training(model, layers, batch, forward, population)
        for path, outputs in training.items():
            for y, without_noise in zip(outputs, denoised[path], strict=True):
                noise[path].add(y, without_noise)
    return {path: difference.share() for path, difference in noise.items()}
