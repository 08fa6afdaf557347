"""The eps of a batch norm is no longer small beside the variances that it is added to.

What: in more than 5 % of a layer's channels, and in more than one where it has several, eps is above a tenth of the
    running variance. After few batches part of the running variance is still the initial 1; that part is removed before
    the comparison. Not counted are dead channels (a variance below 1e-8 where most channels have a normal one) and
    channels that are switched off (γ near 0); frozen layers are left alone. A new layer has variances of 1 and is
    reported only for an eps above 0.1.

Formula: y = γ·(x − mean) / sqrt(var + eps) + β. The standard deviation of the normalised value is
    1 / sqrt(1 + eps/var), which is 0.95 at eps = var/10, 0.71 at eps = var and 0.3 at eps = 10·var.

Why it hurts: the layer does not bring these channels to unit variance, as the next layers and the learning rate expect;
    small signals stay small, and their gradients with them. The cause is a tiny scale of inputs or weights, as of
    features in other units, or an eps that was set for another purpose.

Threshold: eps/var > 0.1, where 5 % of the scale is missing, in more than 5 % of the channels: our own choice.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 2))
    volts = [1e-3 * torch.randn(64, 4) for _ in range(16)]
    for x in volts:
        model(x)
    assert abs(model[0](volts[0]).std() - 1) > 0.5  # "normalised"
    findings = normsmith.check(model, select=["NS203"])
    assert findings.codes == ("NS203",)

Fix: bring the input to a usual scale (millivolts for volts), or give the layer an eps below a hundredth of the
    variances, as `model.get_submodule(path).eps = 1e-8` with the finding's path; then train on, since the weights after
    the layer have learned its small outputs.

Threads: tensorflow/tensorflow#33027 (features of a small scale), chainer/chainer#7506, wang-xinyu/tensorrtx#649.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from normsmith._text import exact, number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.norms import Norm, statistics_tensors
from normsmith.checks.rule import Rule

RATIO = 0.1
CHANNELS = 0.05
_DEAD = 1e-8
"""A variance below this is that of a channel which gets a constant, where most channels have a normal one."""
_OFF = 1e-3
"""γ below this share of the layer's largest switches a channel off."""


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm with such an eps."""
    for norm in context.norms:
        held = statistics_tensors(norm)
        if held is None or norm.is_frozen:
            continue
        averaged = _averaged(norm, held[1])
        var = averaged[_alive(norm, averaged)]
        small = var[var * RATIO < norm.epsilon]
        if len(small) <= CHANNELS * len(var) or (len(small) == 1 < len(var)):
            continue
        share = len(small) / len(var)
        middle = float(small.median())
        yield Finding(
            norm.path,
            f"eps is {exact(norm.epsilon)}, and the running variance of {number(100 * share, 2)} % of its channels is "
            f"{number(middle, 2)} or thereabouts: they are not brought to unit variance",
            "inputs or weights of a tiny scale, or an eps that is too large",
            Fix(
                f"{norm.path or 'the layer'}: build it with eps={_better(middle)}, or scale its input; then train on"
            ),
            quantity="share of channels",
            measured=share,
            threshold=CHANNELS,
            also=norm.also,
        )


def _averaged(norm: Norm, var: Tensor) -> Tensor:
    """The average of the batches' variances: running variances without what is left of the initial 1."""
    rest = 0.0 if norm.is_at_start else norm.initial_share
    return (var - rest).clamp(min=1e-6 * rest) / (1 - rest)


def _alive(norm: Norm, var: Tensor) -> Tensor:
    """Which channels count: those that get no constant, and are not switched off."""
    tiny = var < _DEAD
    alive = ~tiny if tiny.double().mean() < 0.5 else torch.ones_like(tiny)
    weight = norm.tensors.get("weight")
    if weight is not None and weight.numel() == len(var):
        size = weight.detach().abs().cpu().double().flatten()
        alive &= size >= _OFF * size.max()
    return alive


def _better(var: float) -> str:
    """A power of ten below a hundredth of a variance."""
    return f"1e{math.floor(math.log10(max(var, 1e-30) / 100))}"


RULE = Rule("NS203", "eps-dominates", "warning", check, __doc__)
