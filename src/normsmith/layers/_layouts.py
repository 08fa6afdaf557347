"""Inputs that are not one block of numbers at strides: MKLDNN's are converted, all others refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normsmith.errors import InputError
from normsmith.layers._where import where


def is_strided(x: Tensor) -> bool:
    """Whether it is a tensor whose elements are plain numbers, each at a place that strides tell."""
    return getattr(x, "layout", None) is torch.strided and not (x.is_nested or x.is_quantized)


def call_strided(layer: nn.Module, x: Tensor, *others: Any) -> Tensor:
    """Call a layer with what an MKLDNN tensor holds; its output is one as well.

    Raises:
        InputError: x is sparse, nested or quantised, or no tensor.

    >>> from normsmith.layers import BatchNorm2d
    >>> BatchNorm2d(3)(torch.ones(2, 3, 4, 4).to_mkldnn()).layout
    torch._mkldnn
    """
    if not isinstance(x, Tensor):
        raise InputError(
            f"{where(layer)}: expected a tensor, got {type(x)}; make one, e.g. with torch.as_tensor"
        )
    if not x.is_mkldnn:
        raise InputError(f"{where(layer)}: expected one block of floating-point numbers, got {_described(x)}")
    arguments = [each.to_dense() if isinstance(each, Tensor) and each.is_mkldnn else each for each in others]
    y: Tensor = layer.forward(x.to_dense(), *arguments).to_mkldnn()
    return y


def _described(x: Tensor) -> str:
    """What a tensor is that is none, and what to do."""
    if x.is_quantized:
        return (
            f"quantised values ({x.dtype}); fold the norm (normsmith.surgery.fold) before the model is quantised, or "
            "put a DeQuantStub before it"
        )
    if x.is_nested:
        return "a nested tensor; pad it, e.g. with torch.nested.to_padded_tensor, and pass a mask"
    return f"a tensor of layout {x.layout}; convert it with .to_dense()"
