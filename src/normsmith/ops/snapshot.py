"""Copies of running buffers that stay what they were, in eager mode and in compiled graphs."""

import torch
from torch import Tensor

from normsmith._torch import is_exporting


@torch.library.custom_op("normsmith::snapshot", mutates_args=())
def _opaque_clone(tensor: Tensor) -> Tensor:
    return tensor.clone()


@_opaque_clone.register_fake
def _(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor)


def snapshot(tensor: Tensor) -> Tensor:
    """A copy of a buffer that this or a later forward updates in place.

    In a compiled graph it is an operator of its own: the partitioner of torch 2.13 would otherwise save the
    buffer itself for backward and recompute from its values after the update: gradients silently wrong, by
    0.1 to 0.7 for batch renormalization.

    >>> buffer = torch.zeros(1)
    >>> before = snapshot(buffer)
    >>> _ = buffer.add_(1)
    >>> before
    tensor([0.])
    """
    if torch.compiler.is_compiling() and not is_exporting():
        copied: Tensor = _opaque_clone(tensor)
        return copied
    return tensor.clone()
