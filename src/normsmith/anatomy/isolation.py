"""What a run or a change of a model borrows beside the model: compiled code, random numbers, the garbage collector."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from normsmith._torch import is_compiler_loaded


def eager_forwards() -> AbstractContextManager[object]:
    """A block in which compiled modules run as they were written.

    Their hooks are called, and nothing is compiled for a model that is borrowed.
    """
    if not is_compiler_loaded():
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def forget_compiled() -> None:
    """Have compiled forwards compiled again: they do not look whether a module has other hooks than before."""
    if is_compiler_loaded():
        torch.compiler.reset()


class RandomStates(NamedTuple):
    """Where random generators stand: torch's, those of torch on CUDA devices, Python's and numpy's."""

    cpu: Tensor
    cuda: dict[int, Tensor]
    python: Any
    numpy: Any


def random_states(model: nn.Module) -> RandomStates:
    """Where the generators stand from which a model may draw."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    cuda = {device.index: torch.cuda.get_rng_state(device) for device in devices if device.type == "cuda"}
    return RandomStates(torch.get_rng_state(), cuda, random.getstate(), np.random.get_state())


@contextmanager
def same_random_numbers(model: nn.Module, begin: RandomStates | None = None) -> Iterator[None]:
    """A block after which all random states are what they were before it: torch's, Python's and numpy's.

    Those of torch on the model's devices too. Every pass of a model in such a block draws the same numbers; with
    `begin` those that came then.

    >>> begin = random_states(nn.ReLU())
    >>> first = torch.randn(1)
    >>> with same_random_numbers(nn.ReLU(), begin):
    ...     torch.equal(torch.randn(1), first)
    True
    """
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    cuda = sorted(device.index for device in devices if device.type == "cuda")
    pythons, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=cuda):
            if begin is not None:
                torch.set_rng_state(begin.cpu)
                for index, state in begin.cuda.items():
                    torch.cuda.set_rng_state(state, index)
                random.setstate(begin.python)
                np.random.set_state(begin.numpy)
            yield
    finally:
        random.setstate(pythons)
        np.random.set_state(numpys)


def seed_random_numbers(seed: int) -> None:
    """Seed torch, Python and numpy, from which models draw in training: masks of Hugging Face's speech models are
    numpy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


class _Pauses:
    """How many blocks, in all threads together, want the collector paused, and whether it was enabled before."""

    def __init__(self) -> None:
        self.lock, self.number, self.was_enabled = threading.Lock(), 0, False


_PAUSES = _Pauses()


@contextmanager
def garbage_collector_paused() -> Iterator[None]:
    """A block that makes many small objects that stay; the collector would go through all of them time and again.

    Blocks may be nested, and in several threads: the collector is enabled again, if it was, after the last of them.
    """
    with _PAUSES.lock:
        if _PAUSES.number == 0:
            _PAUSES.was_enabled = gc.isenabled()
        _PAUSES.number += 1
    try:
        gc.disable()
        yield
    finally:
        with _PAUSES.lock:
            _PAUSES.number -= 1
            if _PAUSES.number == 0 and _PAUSES.was_enabled:
                gc.enable()
