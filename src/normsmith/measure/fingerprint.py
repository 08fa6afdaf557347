"""What tells one model from another: a digest of its structure and of each of its tensors."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from normsmith.measure.layers import MeasuredLayer

STRUCTURE = "(structure)"
"""The name of the digest of what a model is made of, beside those of its tensors."""

_STATISTICS = ("running_mean", "running_var", "running_std", "num_batches_tracked")


def fingerprint(model: nn.Module, apart: Iterable[MeasuredLayer] = ()) -> dict[str, str]:
    """Digests of a model's structure and of its tensors by name, the same on every machine and device.

    The structure is what printing the model shows: classes, and the settings that they print. The running statistics
    of the layers in `apart` may differ, and are left out.

    >>> one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> other.load_state_dict(one.state_dict()), fingerprint(one) == fingerprint(other)
    (<All keys matched successfully>, True)
    """
    left_out = {
        f"{path}.{name}" if path else name
        for layer in apart
        for path in (layer.path, *layer.also)
        for name in _STATISTICS
    }
    shown = re.sub(r"0x[0-9a-f]+", "", repr(model))
    digests = {STRUCTURE: hashlib.sha256(shown.encode()).hexdigest()[:16]}
    tensors = (*model.named_parameters(), *model.named_buffers())
    return digests | {name: _digest(tensor) for name, tensor in tensors if name not in left_out}


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
