"""Training forwards that leave the running statistics of a model as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer

from normsmith._torch import buffers_of
from normsmith.errors import InputError
from normsmith.layers.of_model import norms_of_others
from normsmith.layers.statistics import StatisticsBase

_FORWARDS = (nn.BatchNorm1d.forward, nn.SyncBatchNorm.forward)
"""Forwards that read and update no running statistics in training where `track_running_stats` is False."""


class _Off(int):
    """A setting that is False in an open block; in copies and pickles that are made there it is what it was before."""

    before: bool

    def __new__(cls, before: bool) -> Self:
        off = super().__new__(cls, False)
        off.before = before
        return off

    def __repr__(self) -> str:
        return repr(False)

    def __deepcopy__(self, memo: object) -> bool:
        return self.before

    def __reduce_ex__(self, protocol: object) -> tuple[type[bool], tuple[bool]]:
        return bool, (self.before,)


@contextmanager
def without_a_trace(model: nn.Module) -> Iterator[None]:
    """Run training forwards that normalise by their batch and leave every buffer and counter of the norms as it was.

    For meta-learning, test-time adaptation, and forwards beside the training step. It holds for all of our layers,
    in training, and does not change gradients. Layers in evaluation, frozen layers and a fitted `InputNorm` run as
    they always do. Batch renorm uses the bounds and running statistics of the next training step, the same in each
    forward of the block. An `accumulate` takes none of the forwards within the block.

    Torch's batch norms (synchronised ones too) do the same. Norms of other classes that hold a `running_mean` run as
    they are, and have all their buffers back when the block ends.

    Blocks may be nested, and end by exceptions. A copy or pickle that is made within one leaves traces again. The
    model is changed for all threads while the block is open. Compiled models are compiled once for forwards within
    and once for those outside.

    Raises:
        InputError: the model holds no norm, or a lazy one of torch's that has seen no batch yet.

    >>> import torch
    >>> from normsmith.layers import BatchNorm1d
    >>> layer = BatchNorm1d(1, affine=False)
    >>> with without_a_trace(layer):
    ...     y = layer(torch.tensor([[1.0], [3.0]])).round(decimals=2)
    >>> y.flatten(), layer.running_mean, layer.num_batches_tracked
    (tensor([-1.,  1.]), tensor([0.]), tensor(0))
    """
    others = norms_of_others(model, "without_a_trace")
    ours = [module for module in model.modules() if isinstance(module, StatisticsBase)]
    if not ours and not others:
        raise InputError(
            f"without_a_trace: expected a model with norms that keep running statistics, got {type(model).__name__} "
            "without any; its forwards leave no trace"
        )
    for path, module in others.items():
        if any(isinstance(buffer, UninitializedBuffer) for buffer in module.buffers(recurse=False)):
            raise InputError(
                f"without_a_trace: expected norms that know their channels, got a lazy one at {path!r}; run the model "
                "once before"
            )
    with ExitStack() as stack:
        for layer in ours:
            stack.enter_context(_with_attribute(layer, "leaves_trace", False))
        for module in others.values():
            scripted = isinstance(module, torch.jit.ScriptModule)  # whose class has no forward to look at
            if not scripted and type(module).forward in _FORWARDS:
                off = _Off(bool(module.track_running_stats))
                stack.enter_context(_with_attribute(module, "track_running_stats", off))
            else:
                stack.enter_context(_with_buffers_back(module))
        yield


@contextmanager
def _with_attribute(module: nn.Module, name: str, value: int) -> Iterator[None]:
    earlier = getattr(module, name)
    try:
        setattr(module, name, value)
        yield
    finally:
        setattr(module, name, earlier)


@contextmanager
def _with_buffers_back(module: nn.Module) -> Iterator[None]:
    kept = {
        name: buffer.detach().clone() for name, buffer in buffers_of(module).items() if buffer is not None
    }
    try:
        yield
    finally:
        for name, values in kept.items():
            buffer = buffers_of(module).get(name)
            if buffer is not None:
                # the versions of tensors that a backward saved must not change
                buffer.data.copy_(values)
