"""Initial weights for a whole network: He's, Xavier's, and scaled by its own data so that no signal fades or grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._torch.modules import parameters_of
from normsmith.errors import InputError

Only = Callable[[str, nn.Module], bool]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)


def he_(model: nn.Module, *, only: Only | None = None) -> tuple[str, ...]:
    """Draw the weights of linear layers and convolutions as He et al. do for ReLU, and set their biases to zero.

    A weight is normal with variance 2 / fan-in, so that the signal keeps its size from layer to layer where half of it
    is cut off. Embeddings, attention's own projections and recurrent layers keep what they have, and so do layers
    whose weight is parametrized or has no data yet (lazy). A weight that two layers share is drawn once.

    Args:
        model: changed in place.
        only: `only(path, layer)` says whether a layer is drawn anew; all by default.

    Returns:
        The paths of the layers that were drawn, in the order of `model.named_modules()`.

    Source: He et al., ICCV 2015 (arXiv:1502.01852), equation 10.

    >>> model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    >>> he_(model)
    ('0', '2')
    >>> round(float(model[0].weight.detach().var()) * 512, 1)
    2.0
    """
    return _draw(model, only, lambda weight, fans: _normal(weight, 2 / fans[0]))


def xavier_(model: nn.Module, gain: float = 1.0, *, only: Only | None = None) -> tuple[str, ...]:
    """Draw the weights of linear layers and convolutions as Glorot & Bengio do, and set their biases to zero.

    A weight is uniform with variance 2·gain² / (fan-in + fan-out). Which layers are drawn is as in `he_`.

    Args:
        model: changed in place.
        gain: a factor on all weights: 1 for tanh, 4 for the sigmoid, whose slope is a quarter of it.
        only: as in `he_`.

    Returns:
        The paths of the layers that were drawn.

    Raises:
        InputError: the gain is not above zero.

    Source: Glorot & Bengio, AISTATS 2010, equation 16; the factor 4 of the sigmoid is theirs too.

    >>> model = nn.Sequential(nn.Linear(300, 500), nn.Sigmoid(), nn.Linear(500, 10))
    >>> xavier_(model, gain=4.0)
    ('0', '2')
    """
    if not gain > 0:
        raise InputError(f"xavier_: expected a gain above zero, got {gain!r}")

    def fill(weight: Tensor, fans: tuple[int, int]) -> None:
        bound = gain * (6 / (fans[0] + fans[1])) ** 0.5
        nn.init.uniform_(weight, -bound, bound)

    return _draw(model, only, fill)


def unit_variance_(
    model: nn.Module, run: Callable[[nn.Module], Any], *, only: Only | None = None
) -> tuple[str, ...]:
    """Draw orthogonal weights and scale them by data: each channel of a layer's output has mean 0 and variance 1 there.

    Works for every architecture, since it looks at what reaches a layer and not at the formula of its activation. One
    forward suffices: a layer is scaled when it is first called, and passes on what it gives from then on. It runs in
    evaluation mode and without gradients; modes and buffers are afterwards as they were. A channel that does not vary,
    a layer that is never called, and a shared weight from its second layer on keep what was drawn; without a bias the
    mean stays. Which layers are drawn is as in `he_`.

    Args:
        model: changed in place.
        run: `run(model)` calls the model with a batch, as large as possible (64 samples will do).
        only: as in `he_`.

    Returns:
        The paths of the layers that were drawn.

    Source: Krähenbühl et al., "Data-dependent initializations of convolutional neural networks", ICLR 2016
    (arXiv:1511.06856), from the orthogonal weights of Mishkin & Matas, ICLR 2016 (arXiv:1511.06422).

    >>> model, x = nn.Sequential(nn.Linear(20, 50), nn.Sigmoid(), nn.Linear(50, 3)), torch.randn(64, 20) * 30
    >>> unit_variance_(model, lambda model: model(x))
    ('0', '2')
    >>> [round(float(variance), 3) for variance in model(x).detach().var(0, correction=0)]
    [1.0, 1.0, 1.0]
    """
    drawn = _draw(model, only, lambda weight, fans: nn.init.orthogonal_(weight))
    layers = {id(parameters_of(layer)["weight"]): layer for _, layer in reversed([*_layers(model, only)])}
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    handles = [layer.register_forward_hook(_standardised_once()) for layer in layers.values()]
    try:
        model.eval()
        with torch.no_grad():
            run(model)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    return drawn


def _standardised_once() -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    """A hook that scales and shifts a layer at its first call, and what that call returns."""
    called = False

    def standardise(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        nonlocal called
        if called:
            return None
        called = True
        channel = -1 if isinstance(layer, nn.Linear) else 1 - len(layer.weight.shape)  # type: ignore[arg-type]
        values = output.double().movedim(channel, 0).flatten(1)
        if not (values.numel() and values.isfinite().all()):
            return None
        mean, deviation = values.mean(1), values.std(1, correction=0)
        scale = torch.where(deviation > 0, 1 / deviation, 1.0)
        shift = torch.zeros_like(mean) if layer.bias is None else -mean * scale
        _scale_channels(layer, scale)
        if layer.bias is not None:
            layer.bias.copy_(shift)  # type: ignore[operator]
        seen = (-1, *(1,) * (-1 - channel))
        return output * scale.to(output.dtype).view(seen) + shift.to(output.dtype).view(seen)

    return standardise


def _scale_channels(layer: Any, scale: Tensor) -> None:
    """Multiply the weights that make each channel of a layer's output."""
    weight = layer.weight
    if isinstance(layer, _TRANSPOSED):  # (in, out / groups, …): a group's inputs make its outputs alone
        groups = weight.unflatten(0, (layer.groups, -1))
        groups.mul_(scale.to(weight.dtype).view(layer.groups, 1, -1, *(1,) * (weight.dim() - 2)))
    else:
        weight.mul_(scale.to(weight.dtype).view(-1, *(1,) * (weight.dim() - 1)))


def _draw(
    model: nn.Module, only: Only | None, fill: Callable[[Tensor, tuple[int, int]], object]
) -> tuple[str, ...]:
    """Fill the weights of all layers that are wanted; fans are (in, out) as torch counts them, convolutions grouped."""
    drawn, known = [], set[int]()
    for path, layer in _layers(model, only):
        weight: Any = layer.weight
        if id(weight) not in known:
            known.add(id(weight))
            with torch.no_grad():
                fill(weight, _fans(layer))
        drawn.append(path)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return tuple(drawn)


def _layers(model: nn.Module, only: Only | None) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers and convolutions that have a weight of their own, with data."""
    for path, layer in model.named_modules():
        if not isinstance(layer, _LAYERS) or (only is not None and not only(path, layer)):
            continue
        weight = parameters_of(layer).get("weight")
        if weight is not None and not nn.parameter.is_lazy(weight) and weight.numel():
            yield path, layer


def _fans(layer: Any) -> tuple[int, int]:
    """How many numbers an output is made of, and how many outputs an input goes into."""
    weight = layer.weight
    positions = weight[0, 0].numel()
    first, second = weight.shape[0] * positions, weight.shape[1] * positions
    return (first // layer.groups, second) if isinstance(layer, _TRANSPOSED) else (second, _out(layer, first))


def _out(layer: Any, first: int) -> int:
    return first // getattr(layer, "groups", 1)


def _normal(weight: Tensor, variance: float) -> None:
    nn.init.normal_(weight, std=variance**0.5)
