"""The calls that the function `batch_norm` has prepared; layers keep calls of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import Parameter

from normsmith.ops.call import Buffers, PreparedCall
from normsmith.ops.kinds import Kinds, Tensors
from normsmith.ops.prepared import nothing_looks_on, prepare, run
from normsmith.ops.resolve import Renorm, Running

MOST = 128
"""Settings and shapes for which calls are kept; where there are more, they are met anew."""
WIDEST = 4096
"""Channels up to which calls are kept: each has memory for every channel, and kernels of wide batches take longer."""
SETTINGS = (
    "normalize_with", "update_running", "momentum", "eps", "activation", "on_small_batch", "on_nonfinite"
)  # fmt: skip
"""The arguments of `batch_norm` that are no tensors, in the order in which `FunctionCalls.run` takes them."""
_ANY_BOUNDS = Renorm(1.0, 0.0)
"""In the place of the bounds of renorm, which each call brings with it: what is kept keeps none of them alive."""


class FunctionCalls:
    """Prepared calls of a function, whose tensors may be others each time."""

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds = Kinds(MOST)

    def run(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        std: Tensor | None,
        batches: Tensor | None,
        renorm: Renorm | None,
        *settings: Any,
    ) -> Tensor | None:
        """The output of `batch_norm`, if a call of this kind is prepared: when it is met for the second time."""
        of_x = x.__class__
        if (of_x is not Tensor and of_x is not Parameter) or not nothing_looks_on():
            return None
        try:
            key = x.shape, renorm is None, settings
            kind = self._kinds.find(key, x, weight, bias, residual, mean, var, std, batches)
        except (TypeError, RuntimeError, AttributeError):
            # settings that cannot be hashed, batches that have no shape, residuals that are no tensors
            return None
        if kind is None:
            tensors = x, weight, bias, residual, mean, var, std, batches
            kind = self._kinds.meet(key, tensors) if _lasts(settings, tensors) else None
            if kind is None:
                return None
        call, running = kind.call, None if mean is None or var is None else (mean, var, std, batches)
        if call is None:
            tensors = x, weight, bias, residual, mean, var, std, batches
            added, corrected = residual is not None, renorm is not None
            call = kind.prepared(tensors, _prepare, settings, x, weight, bias, running, added, corrected)
            if call is None:
                return None
        bounds = renorm if call.call.renorm is not None else None
        return run(call, kind.differentiated, x, weight, bias, residual, running, bounds)


def _lasts(settings: tuple[Any, ...], tensors: Tensors) -> bool:
    """Whether there are all running statistics or none, settings that do not change, and not too many channels."""
    if not all(setting is None or type(setting) in (bool, int, float, str) for setting in settings):
        return False
    x, _, _, _, *running = tensors
    mean, var = running[:2]
    some = mean is not None and var is not None
    return (
        x.is_cpu and x.dim() > 1 and x.shape[1] <= WIDEST and (some or all(each is None for each in running))
    )


def _prepare(
    settings: tuple[Any, ...],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: Buffers | None,
    added: bool,
    corrected: bool,
) -> PreparedCall | None:
    """Prepare a call with these settings, by renorm if `corrected`; None where each must be checked anew."""
    return prepare(
        x,
        weight,
        bias,
        None if running is None else Running(*running),
        added=added,
        renorm=_ANY_BOUNDS if corrected else None,
        **dict(zip(SETTINGS, settings, strict=True)),
    )
