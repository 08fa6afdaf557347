"""Probes: what a trial measures inside its network besides loss and metric."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from normsmith.layers import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from normsmith.measure import FLAT
from normsmith.studies.names import named
from normsmith.tasks import Task, batches


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


def renorm_acted(probes: Mapping[str, Iterable[float]]) -> bool:
    """Whether renorm was more than batch norm in a trial: r or d left their place at some measurement."""
    departures = (value for name in ("renorm |r - 1|", "renorm |d|") for value in probes.get(name, ()))
    return any(departure > 1e-3 for departure in departures)
