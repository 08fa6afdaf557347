"""What a batch norm does in evaluation: a scale and a shift of each channel, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from normsmith.anatomy.batch_norms import BatchNorm
from normsmith.anatomy.float64 import in_float64


@dataclass(frozen=True)
class Affine:
    """What a batch norm does in evaluation, per channel: scale·x + shift."""

    scale: Tensor
    shift: Tensor

    def repeated(self, repeats: int, channels: int) -> Affine:
        """For a layer of so many channels of which `repeats` in a row are one of the norm's, over and over."""
        which = torch.arange(channels, device=self.scale.device) // repeats % len(self.scale)
        return Affine(self.scale[which], self.shift[which])

    def of_width(self, channels: int) -> Affine:
        """The same for so many channels, where one number is for all of them."""
        return (
            self if len(self.scale) != 1 else Affine(self.scale.expand(channels), self.shift.expand(channels))
        )


def affine_of(norm: BatchNorm) -> Affine:
    """The scale γ/σ and shift β − γ·μ/σ of a norm that goes by its running statistics."""
    parts = {name: None if tensor is None else in_float64(tensor) for name, tensor in norm.tensors.items()}
    mean, var, std = parts["running_mean"], parts["running_var"], parts["running_std"]
    assert mean is not None
    assert var is not None
    scale = (var + norm.eps).rsqrt() if std is None else std.reciprocal()
    if parts["weight"] is not None:
        scale = scale * parts["weight"]
    shift = -mean * scale
    return Affine(scale, shift if parts["bias"] is None else shift + parts["bias"])
