"""Wrappers that keep books of a model's tensors: they must not find others than they took note of."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from normsmith.errors import SurgeryError

_SHARDED = {"FullyShardedDataParallel", "FSDPModule"}
Books = Mapping[nn.Module, frozenset[int]]


def books(model: nn.Module) -> Books:
    """The tensors that each `DistributedDataParallel` in a model has to do with.

    Raises SurgeryError for a sharded model, whose parameters are pieces of the real ones.
    """
    found: dict[nn.Module, frozenset[int]] = {}
    for path, module in model.named_modules():
        if any(kind.__name__ in _SHARDED for kind in type(module).__mro__):
            raise SurgeryError(
                f"{path or '(model)'}: expected a whole model, got a sharded one; change it before FSDP"
            )
        if isinstance(module, DistributedDataParallel):
            found[module] = frozenset(id(tensor) for tensor in (*module.parameters(), *module.buffers()))
    return found


def check_books(before: Books) -> None:
    """Raise SurgeryError where a wrapper would reduce or broadcast tensors that are no longer the model's."""
    for wrapper, tensors in before.items():
        if tensors != frozenset(id(tensor) for tensor in (*wrapper.parameters(), *wrapper.buffers())):
            raise SurgeryError(
                "DistributedDataParallel: expected the parameters and buffers it was made with, got others by this "
                "plan; change the model first and wrap it then"
            )


def averaged(ema: nn.Module, model: nn.Module) -> nn.Module:
    """The copy of a model that an EMA holds: in torch's `AveragedModel`, in `.module` of others, or itself."""
    inner = getattr(ema, "module", None)
    if isinstance(ema, AveragedModel) or (type(ema) is not type(model) and isinstance(inner, nn.Module)):
        assert isinstance(inner, nn.Module)
        return inner
    return ema
