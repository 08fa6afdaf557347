"""The calls that a layer has prepared, and what they depend on, which is looked at before each of them.

A layer meets the same kind of batch again and again, with the same settings, and with parameters and buffers that stay
where they are. Then all checks and decisions of its forward have the same outcome, and the layer keeps a call that
`normsmith.ops.prepared` has prepared. There are many ways to change a layer or its tensors, and none that tells it. So
each call looks, which takes a tenth of the time that it saves.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Self

from torch import Tensor, nn
from torch.nn import Parameter

from normsmith._torch import BUFFERS, PARAMETERS
from normsmith.errors import InputError
from normsmith.ops import Running
from normsmith.ops.call import PreparedCall
from normsmith.ops.prepared import is_plain, nothing_intervenes, prepare, run

MOST = 16
"""Kinds of batches for which a layer keeps calls; where it meets more, it starts anew."""

_settings = itemgetter(
    "training", "pinned", "leaves_trace", "track_running_stats", "num_features", "on_small_batch", "on_nonfinite",
    "ghost_batch_size", "process_group", "context_mask", "_collected",
)  # fmt: skip
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
        self._kinds: dict[Any, _Kind] = {}

    def run(self, layer: Any, x: Tensor, residual: Tensor | None) -> Tensor | None:
        """The output of the layer, if a call for its present state and such a batch is prepared.

        A call is prepared when a kind of batch is met for the second time: what comes once costs nothing.
        """
        if not is_plain(x) or not nothing_intervenes():
            return None
        if residual is not None and not (is_plain(residual) and _is_alike(residual, x)):
            return None
        key = (x.shape, x.stride(), x.dtype, x.device, layer.training, residual is None)
        kind = self._kinds.get(key)
        if kind is None or not kind.holds(layer):
            self._meet(key, layer)
            return None
        call = kind.call
        if call is None:
            call = kind.prepare(layer, x, residual is not None)
            if call is None:
                return None
        return run(call, x, kind.weight, kind.bias, residual, layer._bounds() if kind.is_renorm else None)

    def _meet(self, key: Any, layer: Any) -> None:
        """Take note of the state of the layer as it meets a kind of batch, unless that is one that does not last."""
        self._kinds.pop(key, None)
        if not layer.prepares_calls() or any(part is not None for part in _unusual(vars(layer))):
            return
        kind = _Kind(layer)
        if not kind.lasts():
            return
        if len(self._kinds) >= MOST:
            self._kinds.clear()
        self._kinds[key] = kind


class _Kind:
    """The state of a layer as it met a kind of batch, and the call that was prepared for both."""

    __slots__ = (
        "_activation", "_epsilon", "_layer", "_momentum", "_places", "_running", "_settings", "_tried", "bias", "call",
        "is_renorm", "weight",
    )  # fmt: skip

    def __init__(self, layer: Any) -> None:
        held = vars(layer)
        parameters, buffers = held[PARAMETERS], held[BUFFERS]
        self._layer, self._settings, self._activation = type(layer), _settings(held), layer.activation
        self._momentum, self._epsilon = held["momentum"], held["_epsilon"]
        self.weight, self.bias = parameters.get("weight", layer), parameters.get("bias", layer)
        mean, var = buffers["running_mean"], buffers["running_var"]
        self._running = Running(mean, var, buffers.get("running_std"), buffers["num_batches_tracked"])
        self._places: list[Any] = []
        self._tried = self.is_renorm = False
        self.call: PreparedCall | None = None

    def lasts(self) -> bool:
        """Whether the tensors are a layer's own, and take note where they are.

        In a parametrized or pruned layer attributes stand in the place of parameters. What `functional_call` passes is
        not kept alive here.
        """
        affine = [each for each in (self.weight, self.bias) if each is not None]
        buffers = [each for each in self._running if each is not None]
        if not all(type(each) is Parameter for each in affine):
            return False
        if not all(type(each) is Tensor and not each.requires_grad for each in buffers):
            return False
        self._places = [
            (each, type(each), each.data_ptr(), each.dtype, each.shape) for each in (*affine, *buffers)
        ]
        return True

    def holds(self, layer: Any) -> bool:
        """Whether the layer has the same settings, and the same tensors in the same places."""
        held = layer.__dict__
        parameters, buffers = held[PARAMETERS], held[BUFFERS]
        mean, var, std, batches = self._running
        if not (
            parameters.get("weight", layer) is self.weight
            and parameters.get("bias", layer) is self.bias
            and buffers["running_mean"] is mean
            and buffers["running_var"] is var
            and buffers["num_batches_tracked"] is batches
            and buffers.get("running_std") is std
            # the very numbers: a tensor that equals one may change where it is
            and held["momentum"] is self._momentum
            and held["_epsilon"] is self._epsilon
            and layer.activation is self._activation
            and layer.__class__ is self._layer
            and _settings(held) == self._settings
        ):
            return False
        for tensor, kind, address, dtype, shape in self._places:
            # `tensor.data = ...` and the like leave the object the same
            if (
                tensor.data_ptr() != address
                or tensor.dtype is not dtype
                or tensor.shape != shape
                or not tensor.is_contiguous()
                or tensor.__class__ is not kind
            ):
                return False
        return True

    def prepare(self, layer: Any, x: Tensor, added: bool) -> PreparedCall | None:
        """Prepare the call when it is asked for first; None where each call must be checked and decided anew."""
        if self._tried:
            return None
        self._tried = True
        if x.dim() - 2 not in layer.spatial or x.shape[1] != layer.num_features:
            return None
        numbers = (self._epsilon, 0.0 if self._momentum is None else self._momentum)
        if not all(isinstance(number, (int, float)) for number in numbers):
            return None
        policy = layer.policy
        try:
            renorm = layer._bounds() if policy.normalize_with == "batch" else None
        except InputError:
            return None
        self.is_renorm = renorm is not None
        absent = self._running.mean is None or self._running.var is None
        running = None if absent else self._running
        self.call = prepare(
            x, self.weight, self.bias, running, added=added,
            normalize_with=policy.normalize_with, update_running=policy.update_running, momentum=self._momentum,
            eps=self._epsilon, renorm=renorm, activation=self._activation, on_small_batch=layer.on_small_batch,
            on_nonfinite=layer.on_nonfinite,
        )  # fmt: skip
        return self.call


def _is_alike(residual: Tensor, x: Tensor) -> bool:
    return (
        residual.dtype is x.dtype
        and residual.shape == x.shape
        and residual.stride() == x.stride()
        and residual.device == x.device
    )
