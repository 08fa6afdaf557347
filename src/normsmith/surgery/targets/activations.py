"""The activation of a norm that is fused with it, as a layer that stays when the norm goes."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from normsmith._torch import children_of
from normsmith.anatomy.batch_norms import BatchNorm

_LAYERS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


def activation_of(norm: BatchNorm) -> nn.Module | None:
    """The activation that a norm applies, without the norm; None where it applies none.

    Of timm's layers it is an `nn.Sequential` of their parts, which keep their names.

    >>> from normsmith.anatomy.read_batch_norm import read_batch_norm
    >>> from normsmith.layers import BatchNormAct2d
    >>> activation_of(read_batch_norm(BatchNormAct2d(8, activation="silu")))
    SiLU()
    """
    if norm.activation is None:
        return None
    if norm.origin == "other":
        return nn.Sequential(OrderedDict(children_of(norm.module)))  # type: ignore[arg-type]
    return _LAYERS[norm.activation]()
