"""What reaches layers with weights, feature by feature: of the first one raw data, of all of them the moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn

from normsmith.anatomy.forward import Forward, copied, flat
from normsmith.anatomy.isolation import same_random_numbers
from normsmith.anatomy.kinds import is_producer
from normsmith.checks.finding import UnavailableError
from normsmith.checks.moments import numbered
from normsmith.checks.restore import modes_kept

_LAST = (nn.Linear, nn.Bilinear, nn.RNNBase, nn.RNNCellBase)
"""Layers whose features come last; those of convolutions come second."""
_VALUES = 4096
"""Values of a feature that are kept of each batch."""


class _Reached(BaseException):
    """Ends a forward at its first layer; no error, so that nobody's `except Exception` takes it for one."""


def first_inputs(
    model: nn.Module, batches: Sequence[Any], forward: Callable[[nn.Module, Any], Any]
) -> tuple[str, Tensor]:
    """The path of the first linear, convolutional or recurrent layer that is called, and its inputs (values, features).

    Forwards end there, so that this costs next to nothing.

    Raises:
        UnavailableError: the model raised, or has no such layer; or it looks up embeddings first, no raw data.
    """
    first: list[str] = []
    seen: list[Tensor] = []
    embedded: list[bool] = []
    begun = 0
    paths = _with_weights(model)

    def enters(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        x = next(flat(arguments), None)
        if len(seen) >= begun or x is None or not x.is_floating_point() or x.ndim < 2:
            return
        first.append(paths[module])
        values = _by_feature(module, x)
        step = max(len(values) // _VALUES, 1)
        seen.append(values[::step].double().cpu())
        raise _Reached

    def looks_up(*_: Any) -> None:
        if len(seen) < begun:
            embedded.append(True)
            raise _Reached

    handles = [module.register_forward_pre_hook(enters) for module in paths]
    handles += [
        module.register_forward_pre_hook(looks_up)
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    ]
    run = numbered(forward)
    try:
        with modes_kept(model), torch.no_grad(), same_random_numbers(model):
            model.eval()
            for batch in batches:
                begun += 1
                with suppress(_Reached):
                    run(model, copied(batch))
    finally:
        for handle in handles:
            handle.remove()
    if embedded:
        raise UnavailableError("the first layer looks up embeddings, which are no raw data")
    if not seen or len({part.shape[1] for part in seen}) > 1:
        raise UnavailableError("no linear, convolutional or recurrent layer gets the data")
    return first[0], torch.cat(seen)


def moments_of_inputs(model: nn.Module, batch: Any, forward: Forward) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of the first input of each layer with weights, by its path, each (features,), in evaluation.

    Raises:
        UnavailableError: the model raised.
    """
    moments: dict[str, tuple[Tensor, Tensor]] = {}
    paths = _with_weights(model)

    def enters(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        x = next(flat(arguments), None)
        if paths[module] in moments or x is None or not x.is_floating_point() or x.ndim < 2:
            return
        values = _by_feature(module, x)
        if len(values) > 1:
            var, mean = torch.var_mean(values.double(), 0)
            moments[paths[module]] = mean.cpu(), var.cpu()

    with modes_kept(model), torch.no_grad(), same_random_numbers(model), ExitStack() as stack:
        for module in paths:
            stack.callback(module.register_forward_pre_hook(enters).remove)
        model.eval()
        numbered(forward)(model, copied(batch))
    return moments


def _with_weights(model: nn.Module) -> dict[nn.Module, str]:
    """The path of each linear, convolutional or recurrent layer."""
    return {
        module: path
        for path, module in model.named_modules()
        if is_producer(module) or isinstance(module, (nn.RNNBase, nn.RNNCellBase))
    }


def _by_feature(module: nn.Module, x: Tensor) -> Tensor:
    """What reaches a layer, (values, features)."""
    return x.detach().movedim(-1 if isinstance(module, _LAST) else 1, -1).flatten(0, -2)


def dense(values: Tensor) -> Tensor:
    """Which features are measured numbers: not constant, not of two values only, not mostly zeros; (features,).

    >>> dense(torch.tensor([[1.0, 0.0, 5.0, 0.0], [2.0, 1.0, 5.0, 0.0], [3.0, 0.0, 5.0, 0.7], [4.0, 0.0, 5.0, 0.0]]))
    tensor([ True, False, False, False])
    """
    low, high = values.amin(0), values.amax(0)
    two = ((values == low) | (values == high)).all(0)
    return ~two & ((values == 0).double().mean(0) <= 0.5) & values.isfinite().all(0)
