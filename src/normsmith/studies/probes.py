"""Probes: what a trial measures inside its network besides loss and metric."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from normsmith.layers import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from normsmith.measure import FLAT, normalisation_noise, variance_shift
from normsmith.studies.names import named
from normsmith.tasks import Task, batches, evaluating, evaluation_batches, forward_of, metric
from normsmith.tasks.datasets import length

NOISE_SIZES = (8, 16, 32, 64, 128)
"""Samples in a batch at which normalisation noise is measured."""

FEWEST = 6
"""Of fewer batches the noise comes out too small: they are the population that they are compared with."""


def _forward(model: nn.Module, task: Task, *, training: bool) -> None:
    """One forward of one training batch; every module's mode and the random state are left as they were."""
    modes = {module: module.training for module in model.modules()}
    batch = next(batches(task, torch.Generator().manual_seed(0)))
    try:
        with torch.no_grad(), torch.random.fork_rng():
            model.train(training)
            task.forward(model, batch)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _shape(values: Tensor) -> tuple[float, float]:
    """Skewness and excess kurtosis per unit (axis 1; a vector is one unit), averaged over units."""
    values = values.detach().double()
    units = (values[:, None] if values.dim() == 1 else values).movedim(1, 0).flatten(1)
    centred = units - units.mean(1, keepdim=True)
    scale = centred.pow(2).mean(1).sqrt()
    alive = scale > 1e-8
    if not alive.any():
        return 0.0, 0.0
    standard = centred[alive] / scale[alive, None]
    return standard.pow(3).mean().item(), standard.pow(4).mean().item() - 3.0


@named("activation-signals")
def activation_signals(model: nn.Module, task: Task) -> dict[str, float]:
    """Share of flat units, and skewness and kurtosis on both sides of the activations, on one batch in eval mode.

    Returns averages over the network's Sigmoid, Tanh and ReLU modules; nothing where there are none.
    """
    seen: list[tuple[float, ...]] = []

    before: list[tuple[float, float]] = []

    def look_before(module: nn.Module, inputs: Any) -> None:
        before.append(_shape(inputs[0]))  # now: an activation in place leaves nothing of its input

    def look_after(module: nn.Module, inputs: Any, output: Tensor) -> None:
        flat = FLAT[type(module)](output).double().mean().item()
        seen.append((flat, *before.pop(), *_shape(output)))

    watched = [module for module in model.modules() if type(module) in FLAT]
    handles = [module.register_forward_pre_hook(look_before) for module in watched]
    handles += [module.register_forward_hook(look_after) for module in watched]
    try:
        _forward(model, task, training=False)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        return {}
    means = torch.tensor(seen, dtype=torch.float64).mean(0).tolist()
    names = ("flat", "skewness before", "kurtosis before", "skewness after", "kurtosis after")
    return dict(zip(names, means, strict=True))


@named("renorm-activity")
def renorm_activity(model: nn.Module, task: Task) -> dict[str, float]:
    """How far batch renorm is from batch norm on one training batch, by the layers' current bounds.

    Returns the largest |r − 1| and |d| over all channels and layers: both 0 means that renorm did nothing.
    """
    departures: list[tuple[float, float]] = []

    def look(module: Any, inputs: Any) -> None:
        r, d = module.correction(inputs[0])
        departures.append(((r - 1).abs().max().item(), d.abs().max().item()))

    replica = copy.deepcopy(model)  # a training forward moves running statistics: not the model's own
    for module in replica.modules():
        if isinstance(module, BatchRenorm1d | BatchRenorm2d | BatchRenorm3d):
            module.register_forward_pre_hook(look)
    _forward(replica, task, training=True)
    if not departures:
        return {}
    return {
        "renorm |r - 1|": max(r for r, _ in departures),
        "renorm |d|": max(d for _, d in departures),
    }


@named("training-metric")
def training_metric(model: nn.Module, task: Task) -> dict[str, float]:
    """The metric on the training data in evaluation mode."""
    with evaluating(model):
        return {"training metric": metric(task, model, "train")}


@named("variance-shift")
def largest_variance_shift(model: nn.Module, task: Task) -> dict[str, float]:
    """The largest variance shift of a batch norm, over the training data in evaluation mode; see `measure`."""
    shifts = variance_shift(model, list(evaluation_batches(task, "train")), forward_of(task))
    return {"variance shift": max(shifts.values())} if shifts else {}


@named("noise-by-batch")
def noise_by_batch(model: nn.Module, task: Task) -> dict[str, float]:
    """The normalisation noise of batches of `NOISE_SIZES` training samples, over the norms, and its slope.

    The slope is that of the noise against the size, both on logarithmic scales: −1/2 for independent samples.
    """
    noises: dict[int, float] = {}
    for size in NOISE_SIZES:
        count = length(task.train) // size
        if count >= FEWEST:
            stream = batches(replace(task, batch_size=size), torch.Generator().manual_seed(0))
            some = [next(stream) for _ in range(count)]
            measured = normalisation_noise(model, some, forward_of(task)).values()
            noises[size] = sum(measured) / len(measured) if measured else 0.0
    if len(noises) < 2 or not all(noises.values()):
        return {}
    sizes, values = (torch.tensor([*part], dtype=torch.float64).log() for part in (noises, noises.values()))
    sizes, values = sizes - sizes.mean(), values - values.mean()
    slope = ((sizes * values).sum() / sizes.square().sum()).item()
    return {"noise slope": slope, **{f"noise at {size}": noise for size, noise in noises.items()}}


def renorm_acted(probes: Mapping[str, Iterable[float]]) -> bool:
    """Whether renorm was more than batch norm in a trial: r or d left their place at some measurement."""
    departures = (value for name in ("renorm |r - 1|", "renorm |d|") for value in probes.get(name, ()))
    return any(departure > 1e-3 for departure in departures)
