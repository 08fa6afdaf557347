"""What a batch norm of another library is read as: its class is known by name, and tried on a probe."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normsmith._text import error_text
from normsmith._torch import children_of
from normsmith.anatomy.batch_norms import TENSORS, BatchNorm, tensors_of
from normsmith.anatomy.behaviour import behaviour_of
from normsmith.anatomy.broken_statistics import make_plausible
from normsmith.anatomy.preserve import preserved
from normsmith.anatomy.remark import Refusal
from normsmith.ops import ACTIVATIONS

_KNOWN_FORWARDS = re.compile(r"\w*FrozenBatchNorm\w*|(Sync)?BatchNormAct([123]d)?")
"""The names of classes of timm, detectron2, torchvision and Hugging Face, which a probe has yet to confirm."""
_ACTIVATIONS: dict[type[nn.Module], Callable[[Any], str | None]] = {
    nn.Identity: lambda _: "identity",
    nn.ReLU: lambda _: "relu",
    nn.LeakyReLU: lambda act: "leaky_relu" if act.negative_slope == 0.01 else None,
    nn.SiLU: lambda _: "silu",
    nn.GELU: lambda act: "gelu" if act.approximate == "none" else None,
    nn.Hardswish: lambda _: "hardswish",
    nn.Sigmoid: lambda _: "sigmoid",
    nn.Tanh: lambda _: "tanh",
}


def read_by_probe(module: nn.Module) -> BatchNorm | Refusal:
    """The parts of a batch norm with a forward of its own, if its class is known and a probe shows that it is one."""
    kind = type(module).__name__
    if not _KNOWN_FORWARDS.fullmatch(kind):
        behaviour = behaviour_of(module)
        own = f"{kind} has a forward of its own and may do more than batch norm"
        return Refusal("", own if behaviour is None else behaviour.text)
    tensors = tensors_of(module)
    mean, var = tensors["running_mean"], tensors["running_var"]
    if mean is None or var is None:
        return Refusal("", f"{kind} has no running statistics to compare its forward with")
    act = children_of(module).get("act")
    activation = None if act is None else _ACTIVATIONS.get(type(act), lambda _: None)(act)
    if act is not None and activation is None:
        return Refusal("", f"the activation of {kind}, {act}, is none of {', '.join(ACTIVATIONS)}")
    norm = BatchNorm(
        module,
        "other",
        len(mean),
        int(digit[0]) if (digit := re.findall(r"([123])d", kind)) else None,
        float(getattr(module, "eps", 1e-5)),
        getattr(module, "momentum", 0.1),
        tensors,
        frozen="Frozen" in kind,
        activation=None if activation == "identity" else activation,
        settings={"process_group": "world"} if kind.startswith("Sync") else {},
    )
    reason = _why_no_batch_norm(norm)
    return norm if reason is None else Refusal("", reason)


def is_fixed(module: nn.Module) -> bool:
    """Whether a layer of others is a scale and shift of each channel in evaluation, or will be after a first batch."""
    behaviour = behaviour_of(module)
    return behaviour is not None and behaviour.scale is not None


def read_fixed(module: nn.Module) -> BatchNorm | Refusal | None:
    """A layer that `is_fixed`, as a batch norm of mean 0 and variance 1; None where it is none.

    Its γ and β are the scale and shift of evaluation, in float64.
    """
    behaviour = behaviour_of(module)
    if behaviour is None or behaviour.scale is None or behaviour.shift is None:
        return None
    if behaviour.kind == "first batch":
        return Refusal("", behaviour.text)
    scale, shift = behaviour.scale, behaviour.shift
    tensors = {"weight": scale, "bias": shift, "running_mean": shift * 0, "running_var": scale * 0 + 1}
    return BatchNorm(
        module,
        "other",
        len(scale),
        None,
        0.0,
        None,
        {name: tensors.get(name) for name in TENSORS},
        frozen=behaviour.kind == "fixed",
        layouts=behaviour.layouts,
    )


def _why_no_batch_norm(norm: BatchNorm) -> str | None:
    """The reason why a forward is not what its name says, tried on a few numbers; None where it is.

    It is tried in evaluation and, unless it would wait for other ranks, in training.
    """
    mean, kind = norm.tensors["running_mean"], type(norm.module).__name__
    assert mean is not None
    if mean.is_meta:
        return f"{kind} has a forward of its own, which cannot be tried on the meta device"
    weight = norm.tensors["weight"]
    shape = (2, norm.features, *(2,) * (norm.dimensions or 2))
    x = torch.linspace(-2, 2, 2 * norm.features * 2 ** (len(shape) - 2), device=mean.device)
    x = x.reshape(shape).sin().to(mean.dtype if weight is None else weight.dtype)
    modes = [False] if "process_group" in norm.settings else [False, True]
    for training in modes:
        with preserved(norm.module), torch.no_grad():
            make_plausible(norm.module)
            batch = training and not norm.frozen
            try:
                y = norm.module.train(training)(x)
            except Exception as error:  # noqa: BLE001  somebody's forward
                return f"the forward of {kind} failed on a probe: {error_text(error)}"
            expected = _formula(norm, x, batch)
        if y.shape != x.shape or not torch.allclose(y.float(), expected.float(), rtol=1e-2, atol=1e-2):
            mode = "training" if training else "evaluation"
            return f"{kind} does not compute batch norm and its activation in {mode}, tried on a probe"
    return None


def _formula(norm: BatchNorm, x: Tensor, batch: bool) -> Tensor:
    """What a batch norm and its activation should make of x, by the batch's statistics or by the running ones."""
    tensors = {name: None if t is None else t.detach().float() for name, t in norm.tensors.items()}
    mean, var = (None, None) if batch else (tensors["running_mean"], tensors["running_var"])
    y = F.batch_norm(x.float(), mean, var, tensors["weight"], tensors["bias"], batch, 0.0, norm.eps)
    return y if norm.activation is None else ACTIVATIONS[norm.activation].forward(y)
