"""What kind of layer a module or function is: producer, norm, activation, or one that passes channels on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from normsmith._torch import NormBase, buffers_of, children_of
from normsmith.anatomy.behaviour import behaviour_of
from normsmith.layers.ours import is_ours

PRODUCERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
"""Linear layers and convolutions: the layers whose outputs have channels of their own."""
ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.LogSigmoid,
    nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Threshold,
)  # fmt: skip
NORMS = (NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
PASSING = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.FeatureAlphaDropout, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.LPPool1d, nn.LPPool2d, nn.LPPool3d, nn.Upsample,
    nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d,
)  # fmt: skip
"""Layers that leave every channel what it is."""
RESHAPING = (nn.Flatten, nn.Unflatten)
"""Layers that do what `RESHAPING_FUNCTIONS` do."""

ACTIVATION_FUNCTIONS = {kind.__name__.lower() for kind in ACTIVATIONS} | {
    "leaky_relu", "hard_sigmoid", "log_sigmoid", "rrelu", "hard_swish", "quick_gelu",
}  # fmt: skip
NORM_FUNCTIONS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"}
PRODUCING_FUNCTIONS = {
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
}  # fmt: skip
RESHAPING_FUNCTIONS = {"flatten", "reshape", "reshape_as", "view", "view_as", "unflatten"}
PASSING_FUNCTIONS = {
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "contiguous",
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "lp_pool1d", "lp_pool2d", "lp_pool3d", "interpolate", "upsample", "clone", "detach", "to",
    "float", "half", "double",
}  # fmt: skip
VIEWING_FUNCTIONS = RESHAPING_FUNCTIONS | {
    "getitem", "getattr", "transpose", "t", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "squeeze",
    "unsqueeze", "expand", "expand_as", "chunk", "split", "tensor_split", "unbind", "narrow", "select", "diagonal",
    "unfold", "detach", "contiguous", "to", "float", "half", "double", "type", "type_as", "real", "imag", "dropout",
    "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
}  # fmt: skip
"""Functions whose result lies in their argument's memory, or may: dropout returns its input in evaluation."""
REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "min", "logsumexp"}
"""Functions that reduce a tensor over dimensions: over those of space or time they are poolings."""
MOVING_FUNCTIONS = RESHAPING_FUNCTIONS | {
    "movedim", "moveaxis", "transpose", "swapaxes", "swapdims", "permute", "squeeze", "unsqueeze", "getitem", "expand",
    "expand_as", "t",
}  # fmt: skip
"""Functions that put out the values they take, or some of them, at other indices."""


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation of torch's."""
    return _is_known(module, ACTIVATIONS)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm: of a class of torch's or normsmith's, of a subclass, or one that does the same."""
    if isinstance(module, NORMS):
        return True
    behaviour = behaviour_of(module)
    return behaviour is not None and (behaviour.is_norm or holds_statistics(module))


def holds_statistics(module: nn.Module) -> bool:
    """Whether a module has buffers with the names of a batch norm's running statistics."""
    return {"running_mean", "running_var"} <= buffers_of(module).keys()


def is_producer(module: nn.Module) -> bool:
    """Whether a module is a linear layer or convolution that computes what torch's does."""
    return _is_known(module, PRODUCERS)


def is_prepared(module: nn.Module) -> bool:
    """Whether a module is prepared for quantisation, by observers or a configuration on it."""
    return "activation_post_process" in children_of(module) or vars(module).get("qconfig") is not None


def has_own_forward(norm: nn.Module) -> bool:
    """Whether a norm's forward was written by somebody else than torch and normsmith."""
    owner = next(kind for kind in type(norm).__mro__ if "forward" in vars(kind))
    return not (owner.__module__.startswith("torch.nn.") or is_ours(owner))


def why_own_forward_binds(norm: nn.Module) -> str:
    """Why a norm that has a forward of its own stays as it is, where nothing more is known of it."""
    return f"{type(norm).__name__} has a forward of its own and may do more than normalise"


def _is_known(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module is an instance of one of `kinds`, or of a subclass that does not override the forward."""
    return isinstance(module, kinds) and any(
        isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds
    )


def plain_name(name: str) -> str:
    """A function's name without what marks its variants: in place, reflected, private.

    >>> plain_name("relu_"), plain_name("__radd__"), plain_name("iadd"), plain_name("_adaptive_avg_pool2d")
    ('relu', 'add', 'add', 'adaptive_avg_pool2d')
    """
    plain = name.strip("_")
    return {"radd": "add", "iadd": "add", "rmul": "mul", "imul": "mul", "rsub": "sub", "isub": "sub"}.get(
        plain, plain
    )


def is_in_place(module: nn.Module) -> bool:
    """Whether a layer says that it overwrites its input.

    >>> is_in_place(nn.ReLU(inplace=True)), is_in_place(nn.Tanh())
    (True, False)
    """
    return getattr(module, "inplace", False) is True


def is_sequential(module: nn.Module) -> bool:
    """Whether a module calls its children one after the other, as `nn.Sequential` does."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def is_opaque(module: nn.Module) -> bool:
    """Whether a module is a single event of a forward: the calls inside it are not looked at.

    Layers of torch and of normsmith are, and so are quantised and scripted modules; composites are not.
    """
    origin = type(module).__module__
    if isinstance(module, (nn.MultiheadAttention, torch.jit.ScriptModule)):
        return True
    if is_activation(module) or is_norm(module) or is_producer(module):
        return True
    if is_ours(type(module)):
        return not type(module).is_composite  # type: ignore[attr-defined]  # all of ours know it
    if origin.startswith("torch.ao."):
        return True
    return origin.startswith("torch.nn.") and not any(True for _ in module.children())


def channels(producer: nn.Module) -> int:
    """How many channels the output of a linear layer or convolution has.

    >>> channels(nn.Conv2d(3, 16, 3))
    16
    """
    layer: Any = producer
    return int(layer.out_features if isinstance(producer, nn.Linear) else layer.out_channels)


@dataclass(frozen=True)
class Signal:
    """The tensors at a place of a model: the number of channels, and the layout.

    `spatial` is the number of dimensions beside batch and channels. The shape is (N, C, …), or (N, …, C) with
    `channels_last`.
    """

    features: int
    spatial: int = 0
    channels_last: bool = False
