"""What running or changing a model borrows beside it: wrappers, compiled code, random numbers, the collector."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def inside(model: nn.Module) -> nn.Module:
    """The model within DistributedDataParallel and torch.compile.

    A forward of the former waits for the other ranks, which may have fewer batches; the latter's code was made for
    the model as it is used.

    >>> inside(nn.ReLU())
    ReLU()
    """
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif (compiled := model._modules.get("_orig_mod")) is not None:
            model = compiled
        else:
            return model


def eager_forwards() -> AbstractContextManager[object]:
    """Compiled parts run as they were written: hooks are heard, nothing is compiled for a borrowed state."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()  # nothing is compiled in this process
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def same_random_numbers(model: nn.Module) -> Iterator[None]:
    """Torch's random states after the block are those before it: every pass draws the same numbers."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    cuda = sorted(device.index for device in devices if device.type == "cuda")
    with torch.random.fork_rng(devices=cuda):
        yield


class _Pauses:
    """Who wants Python's collector to rest, in all threads together, and whether it was at work before."""

    def __init__(self) -> None:
        self.lock, self.number, self.collects = threading.Lock(), 0, False


_PAUSES = _Pauses()


@contextmanager
def uncollected() -> Iterator[None]:
    """Make many small objects that stay: Python's collector would go through all of them time and again."""
    with _PAUSES.lock:
        if _PAUSES.number == 0:
            _PAUSES.collects = gc.isenabled()
        _PAUSES.number += 1
    try:
        gc.disable()
        yield
    finally:
        with _PAUSES.lock:
            _PAUSES.number -= 1
            if _PAUSES.number == 0 and _PAUSES.collects:
                gc.enable()
