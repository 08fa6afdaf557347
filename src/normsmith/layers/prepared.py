"""The calls that a layer has prepared, and what they depend on, which is looked at before each of them.

A layer meets the same kind of batch again and again, with the same settings, and with parameters and buffers of the
same kind. Then all checks and decisions of its forward have the same outcome, and the layer keeps a call that
`normsmith.ops.prepared` has prepared. There are many ways to change a layer or its tensors, and none that tells it. So
each call looks, which takes a tenth of the time that it saves.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from normsmith._torch import BUFFERS, PARAMETERS
from normsmith.errors import InputError
from normsmith.ops import Running
from normsmith.ops.call import Buffers, PreparedCall
from normsmith.ops.kinds import Kinds, Tensors
from normsmith.ops.prepared import nothing_intervenes, prepare, run

MOST = 16
"""Kinds of batches for which a layer keeps calls; where it meets more, it starts anew."""

_settings = itemgetter(
    "momentum", "_epsilon", "training", "pinned", "leaves_trace", "track_running_stats", "num_features",
    "on_small_batch", "on_nonfinite", "ghost_batch_size", "process_group", "context_mask", "_collected",
)  # fmt: skip
_ELSEWHERE = torch.empty(1, device="cpu")
"""In the place of γ and β where they are attributes and no parameters, as in parametrized layers; like no parameter."""
_unusual = itemgetter("ghost_batch_size", "process_group", "context_mask", "_collected")


class HasPreparedCalls(nn.Module):
    """A norm that prepares its calls. They are no part of its state: a copy or a pickle of it starts anew."""

    __slots__ = ("_prepared_calls",)

    _prepared_calls: PreparedCalls | None
    """None in classes whose forward may be another."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        layer = super().__new__(cls)
        layer._start_anew()
        return layer

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._start_anew()  # the oldest protocols of pickle do without `__new__`
        super().__setstate__(state)  # type: ignore[no-untyped-call]

    def _start_anew(self) -> None:
        # not as `self._prepared_calls = ...`, for which torch asks for attributes that are not there yet
        object.__setattr__(self, "_prepared_calls", PreparedCalls() if self.prepares_calls() else None)

    @classmethod
    def prepares_calls(cls) -> bool:
        """Whether a forward of this class is what prepared calls compute."""
        return False


class PreparedCalls:
    """The prepared calls of one layer, by kinds of batches."""

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds = Kinds(MOST)

    def run(self, layer: Any, x: Tensor, residual: Tensor | None) -> Tensor | None:
        """The output of the layer, if a call for its present state and such a batch is prepared.

        A call is prepared when a kind of batch is met for the second time: what comes once costs nothing.
        """
        of_x = x.__class__
        if (of_x is not Tensor and of_x is not Parameter) or not nothing_intervenes():
            return None
        held = layer.__dict__
        parameters, buffers = held[PARAMETERS], held[BUFFERS]
        weight, bias = parameters.get("weight", _ELSEWHERE), parameters.get("bias", _ELSEWHERE)
        mean, var, std = buffers["running_mean"], buffers["running_var"], buffers.get("running_std")
        batches = buffers["num_batches_tracked"]
        try:
            settings = x.shape, residual is None, layer.activation, layer.__class__, _settings(held)
            kind = self._kinds.find(settings, x, weight, bias, residual, mean, var, std, batches)
        except (TypeError, RuntimeError, AttributeError):
            # settings that cannot be hashed, batches that have no shape, residuals that are no tensors
            return None
        if kind is None:
            tensors = x, weight, bias, residual, mean, var, std, batches
            kind = self._kinds.meet(settings, tensors) if _lasts(layer, tensors) else None
            if kind is None:
                return None
        call, running = kind.call, None if mean is None or var is None else (mean, var, std, batches)
        if call is None:
            tensors = x, weight, bias, residual, mean, var, std, batches
            call = kind.prepared(tensors, _prepare, layer, x, weight, bias, running, residual is not None)
            if call is None:
                return None
        renorm = None if call.call.renorm is None else layer._bounds()
        return run(call, kind.differentiated, x, weight, bias, residual, running, renorm)


def _lasts(layer: Any, tensors: Tensors) -> bool:
    """Whether the settings of a layer are such that its calls can be prepared, and the tensors are its own.

    What `functional_call` passes is not its own.
    """
    held = vars(layer)
    if not layer.prepares_calls() or any(part is not None for part in _unusual(held)):
        return False
    numbers = (held["_epsilon"], 0.0 if held["momentum"] is None else held["momentum"])
    if not all(isinstance(number, (int, float)) for number in numbers):
        return False
    _, weight, bias, _, *buffers = tensors
    affine_is_its_own = all(each is None or type(each) is Parameter for each in (weight, bias))
    return affine_is_its_own and all(each is None or type(each) is Tensor for each in buffers)


def _prepare(
    layer: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, running: Buffers | None, added: bool
) -> PreparedCall | None:
    """Prepare a call for the present settings of a layer; None where each call must be checked and decided anew."""
    if x.dim() - 2 not in layer.spatial or x.shape[1] != layer.num_features:
        return None
    policy = layer.policy
    try:
        renorm = layer._bounds() if policy.normalize_with == "batch" else None
    except InputError:
        return None
    return prepare(
        x, weight, bias, None if running is None else Running(*running), added=added,
        normalize_with=policy.normalize_with, update_running=policy.update_running, momentum=layer.momentum,
        eps=layer.epsilon, renorm=renorm, activation=layer.activation, on_small_batch=layer.on_small_batch,
        on_nonfinite=layer.on_nonfinite,
    )  # fmt: skip
