"""How much memory the tensors take that somebody holds, for tests of what a check keeps."""

from __future__ import annotations

import gc

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


def held_bytes() -> int:
    """Bytes of all tensors that there are; those that share memory count once."""
    tensors = [
        thing
        for thing in gc.get_objects()
        if issubclass(type(thing), Tensor) and not is_lazy(thing) and thing.layout is torch.strided
    ]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
