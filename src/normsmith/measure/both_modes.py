"""What norms give in training and what they give in evaluation, and how far the two are apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normsmith.anatomy.forward import Forward, copied
from normsmith.anatomy.isolation import eager_forwards
from normsmith.anatomy.preserve import preserved
from normsmith.measure.layers import MeasuredLayer
from normsmith.measure.statistics import Statistics

Outputs = dict[str, list[Tensor]]
"""What each layer returned, call by call, by the layer's path."""


class Difference:
    """How far two outputs of one layer are apart, over many calls, in standard deviations of the first.

    Outputs are (batch, channels, *space); the share is the root of the mean square over channels. Channels that are
    constant count as 0.

    >>> difference = Difference()
    >>> difference.add(torch.tensor([[-1.0], [1.0]]), torch.tensor([[2.0], [4.0]]))
    >>> difference.share()
    3.0
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._count = 0

    def add(self, first: Tensor, second: Tensor) -> None:
        """Count one more call."""
        y, other = (output.detach().cpu().double().movedim(1, 0).flatten(1) for output in (first, second))
        sums = torch.stack([y.sum(1), y.square().sum(1), (y - other).square().sum(1)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._count += y.shape[1]

    def share(self) -> float:
        """The difference over all calls."""
        if self._sums is None or not self._count:
            return 0.0
        mean, square, apart = self._sums / self._count
        variance = square - mean.square()
        varies = variance > 1e-12 * square
        return float((apart / variance).where(varies, 0.0).mean().sqrt())


def outputs_in_evaluation(
    model: nn.Module, layers: Sequence[MeasuredLayer], batch: Any, forward: Forward
) -> Outputs:
    """What the layers return for a batch while the whole model is in evaluation mode; nothing is changed."""
    outputs: Outputs = {layer.path: [] for layer in layers}
    with _borrowed(model):
        for layer in layers:
            layer.layer.register_forward_hook(_keeping(outputs[layer.path]))
        forward(model, copied(batch))
    return outputs


def outputs_in_training(
    model: nn.Module,
    layers: Sequence[MeasuredLayer],
    batch: Any,
    forward: Forward,
    reference: Sequence[Statistics],
) -> tuple[Outputs, Outputs]:
    """What the layers return for a batch while they alone are in training mode; nothing is changed.

    The second is what they would return for the same inputs if they normalised by the reference, which has statistics
    for each layer.
    """
    trained: Outputs = {layer.path: [] for layer in layers}
    referred: Outputs = {layer.path: [] for layer in layers}
    with _borrowed(model):
        for layer, statistics in zip(layers, reference, strict=True):
            layer.layer.train()
            hook = _referring(layer, statistics, referred[layer.path])
            layer.layer.register_forward_pre_hook(hook, with_kwargs=True)
            layer.layer.register_forward_hook(_keeping(trained[layer.path]))
        forward(model, copied(batch))
    return trained, referred


@contextmanager
def _borrowed(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode without gradients; afterwards it is as before, without the hooks of the block."""
    with preserved(model), eager_forwards(), torch.no_grad():
        model.eval()
        yield


def _keeping(outputs: list[Tensor]) -> Any:
    def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append(output.clone())  # an activation in place may write to it

    return hook


def _referring(layer: MeasuredLayer, statistics: Statistics, outputs: list[Tensor]) -> Any:
    """A pre-hook that calls the layer in evaluation mode on what it is about to be called with in training."""

    def hook(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        held = layer.statistics()
        try:
            module.eval()
            layer.normalise_by(statistics.like(held))
            outputs.append(module.forward(*copied(arguments), **copied(options)).clone())
        finally:
            layer.normalise_by(held)
            module.train()

    return hook
