"""Wrappers that hold on to a model's tensors: a plan must leave `DistributedDataParallel` those it was made with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from normsmith._text import path_text
from normsmith.errors import SurgeryError

_SHARDED = {"FullyShardedDataParallel", "FSDPModule"}
Wrapped = Mapping[nn.Module, frozenset[int]]
"""For each `DistributedDataParallel` the ids of the parameters and buffers that it synchronises."""


def wrapped_tensors(model: nn.Module) -> Wrapped:
    """The tensors of each `DistributedDataParallel` in a model.

    Raises:
        SurgeryError: the model is sharded: its parameters are pieces of the real ones.
    """
    wrapped: dict[nn.Module, frozenset[int]] = {}
    for path, module in model.named_modules():
        if any(kind.__name__ in _SHARDED for kind in type(module).__mro__):
            raise SurgeryError(
                f"{path_text(path)}: expected a whole model, got a sharded one; change it before FSDP"
            )
        if isinstance(module, DistributedDataParallel):
            wrapped[module] = frozenset(id(tensor) for tensor in (*module.parameters(), *module.buffers()))
    return wrapped


def check_wrapped(before: Wrapped) -> None:
    """Raise SurgeryError where a wrapper would go on to synchronise tensors that are no longer the model's."""
    for wrapper, tensors in before.items():
        if tensors != frozenset(id(tensor) for tensor in (*wrapper.parameters(), *wrapper.buffers())):
            raise SurgeryError(
                "DistributedDataParallel: expected the parameters and buffers it was made with, got others by this "
                "plan; change the model first and wrap it then"
            )


def averaged(ema: nn.Module, model: nn.Module) -> nn.Module:
    """The averaged copy of a model: what `AveragedModel` or another holder has as `.module`, or the EMA itself."""
    inner = getattr(ema, "module", None)
    if isinstance(ema, AveragedModel) or (type(ema) is not type(model) and isinstance(inner, nn.Module)):
        assert isinstance(inner, nn.Module)
        return inner
    return ema
