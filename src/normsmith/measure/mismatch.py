"""Train/eval mismatch: how far what a norm gives in evaluation is from what it gives in training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from normsmith.anatomy.forward import Forward, call, unwrapped
from normsmith.anatomy.select import Only
from normsmith.errors import InputError
from normsmith.measure.both_modes import Difference, outputs_in_evaluation, outputs_in_training
from normsmith.measure.layers import measurable_layers


@dataclass(frozen=True)
class Mismatch:
    """How far a norm's output in evaluation is from that in training, in standard deviations of that in training.

    - `own`: where the same input reaches the norm in both modes: by the norm's own statistics alone.
    - `accumulated`: where the whole network runs in one mode or in the other: by those of the norms before it too.
    """

    own: float
    accumulated: float


def mismatch(
    model: nn.Module, batches: Iterable[Any], forward: Forward = call, only: Only = None
) -> dict[str, Mismatch]:
    """How far each batch norm is in evaluation from what it does in training, on the same batches.

        mismatch = √(mean over channels of E[(y_training − y_evaluation)²] / Var[y_training])

    Channels that are constant in training count as 0. It is never quite 0, because the statistics of a batch are
    noisy: `normalisation_noise` says how much of it that is. All but the norms is in evaluation mode, so that dropout
    does not add to it.

    Args:
        model: any module; nothing in it is changed, running statistics neither.
        batches: what `forward` takes, such as a DataLoader, each as large as those in training.
        forward: `forward(model, batch)`; by default the first part of a batch goes in.
        only: patterns of paths such as "layer1.*", or a function (path, module) → bool.

    Returns a `Mismatch` for each layer that keeps running statistics and was called, by its path.

    Raises InputError where there is no batch.

    >>> import torch
    >>> norm = nn.BatchNorm1d(1)  # running mean 0, running variance 1
    >>> round(mismatch(norm, [torch.tensor([[2.0], [4.0]])])[""].own, 3)  # −1, 1 in training; 2, 4 in evaluation
    3.0
    """
    model = unwrapped(model)
    layers = measurable_layers(model, only).layers
    running = [layer.statistics().copied() for layer in layers]
    own: dict[str, Difference] = defaultdict(Difference)
    accumulated: dict[str, Difference] = defaultdict(Difference)
    empty = True
    for batch in batches:
        empty = False
        evaluation = outputs_in_evaluation(model, layers, batch, forward)
        training, same_input = outputs_in_training(model, layers, batch, forward, running)
        for path, outputs in training.items():
            for y, of_same_input, of_network in zip(outputs, same_input[path], evaluation[path], strict=True):
                own[path].add(y, of_same_input)
                accumulated[path].add(y, of_network)
    if empty:
        raise InputError("mismatch: expected at least one batch, got none; an iterator can be used up")
    return {path: Mismatch(own[path].share(), accumulated[path].share()) for path in own}
