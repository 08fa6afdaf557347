"""Channels of a batch norm carry no information: their input is constant, or their γ is zero.

What: the running variance of a channel is next to zero, so that its input has been constant for a long time; or its γ
    is zero while other channels of the layer have a larger one. Left alone are new layers, and layers whose γ are all
    exactly zero, as residual blocks initialise their last norm. It is information only: a network can do without some
    channels.

Formula: running_var < 1e-8; or |γ| < 1e-6 in a layer whose largest |γ| is not below that.

Why it hurts: such a channel costs time and memory and gives a constant, β. Where many channels of a layer are so,
    something has died: a ReLU before it is never active, weights have decayed, or a regulariser has pushed γ to zero.
    And a constant input is divided by sqrt(eps): should it ever vary again, it comes out up to 300 times larger.

Threshold: 1e-8 is a thousandth of the usual eps of 1e-5, and 1e-6 about ten times the rounding of float32 at 1: our own
    choice.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8))
    with torch.no_grad():
        model[0].bias[:3] = -100.0  # three units that never fire
    for _ in range(300):
        _ = model(torch.randn(32, 4))
    findings = normsmith.check(model, select=["NS411"])
    assert findings.codes == ("NS411",)
    assert findings[0].measured == 3
    assert findings.passed()  # it is information

Fix: start these channels again, then train on. `layer` is the layer before the norm:

        layer, norm, channels = model[0], model.get_submodule(path), findings[0].evidence["dead"]
        with torch.no_grad():
            layer.weight[channels] = nn.init.kaiming_normal_(torch.empty_like(layer.weight[channels]))
            if layer.bias is not None:
                layer.bias[channels] = 0.0
            norm.weight[channels], norm.bias[channels] = 1.0, 0.0

    Or remove the channels (pruning).

Threads: google-research/morph-net#110, jack-willturner/batchnorm-pruning#1, tensorflow/minigo#425.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from normsmith._text import ranges
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.norms import Norm, statistics_tensors
from normsmith.checks.rule import Rule

VARIANCE = 1e-8
SCALE = 1e-6
_SHOWN = 12
_FIX = Fix("start these channels again: new weights before them, γ = 1 and β = 0; or prune them")


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm with such channels."""
    for norm in context.norms:
        constant, silent = _constant(norm), _silent(norm)
        for dead, what, cause in (
            (
                constant,
                "have a running variance next to 0",
                "units before it that never vary, as dead ReLUs or constant inputs",
            ),
            (silent, "have a γ of 0", "decay or a regulariser on γ, or pruning"),
        ):
            if dead is None or not dead.any():
                continue
            channels = dead.nonzero().flatten().tolist()
            which = ranges(channels[:_SHOWN]) + (", …" if len(channels) > _SHOWN else "")
            yield Finding(
                norm.path,
                f"{len(channels)} of {len(dead)} channels {what}: {which}",
                cause,
                _FIX,
                quantity="channels",
                measured=len(channels),
                threshold=0,
                also=norm.also,
                evidence={"dead": channels},
            )


def _constant(norm: Norm) -> Tensor | None:
    """The channels whose input has not varied for long."""
    held = statistics_tensors(norm)
    return None if held is None or norm.is_at_start else held[1].abs() < VARIANCE


def _silent(norm: Norm) -> Tensor | None:
    """The channels without a scale, in a layer that has others, or whose β shows that it has trained."""
    weight = norm.tensors.get("weight")
    if weight is None or weight.ndim != 1:
        return None
    silent = weight.detach().abs().cpu() < SCALE
    return (
        None
        if bool((weight == 0).all()) or (norm.is_at_start and not norm.has_trained)
        else silent.to(torch.bool)
    )


RULE = Rule("NS411", "dead-channel", "info", check, __doc__)
