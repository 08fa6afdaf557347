"""What reaches a batch norm moves so far in each training step that running statistics cannot follow.

What: in eight training steps on a copy, the mean or variance of a norm's input, always on the same batch, moves far
    from step to step in a tenth of the channels or more. It is a warning where evaluation with the running statistics
    costs loss or metric after these steps, as in NS404; information otherwise. In a network without batch norms it is
    the input of linear, convolutional and recurrent layers, and a warning where learning rates ten times smaller give a
    lower loss after 16 steps. Channels that hardly vary at first, beside the others of their layer, are left out: dead
    units and weights that begin at 0 have no scale to move by.

Formula: |μ after step t+1 − μ after step t| / (σ after step t), on average over the steps t, is above 0.25; or |log σ²
    after step t+1 − log σ² after step t| is above 0.4, with the mean μ and variance σ² of a channel.

Why it hurts: a running average with the momentum m is behind by about (1 − m)/m steps: nine at 0.1. Where each step
    moves the input by a quarter of its standard deviation σ, evaluation during training is far off. With or without a
    norm, the layers after it learn from inputs that soon are others.

Threshold: a quarter of σ and a factor of 1.5 (0.4 in the logarithm) of the variance, our own choice: small networks of
    five kinds, new and trained, stay below 0.17 and 0.15 with Adam at 0.01 or SGD at 0.1, and all go beyond with a
    hundred times the learning rate, most with ten times. As the batch is always the same, no sampling error is in it.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
    data = [torch.randn(128, 8) for _ in range(16)]
    batches = [(x, (x[:, 0] > 0).long()) for x in data]
    given = {"loss": nn.functional.cross_entropy, "level": "deep", "select": ["NS506"]}
    for rate, codes in ((1.0, ("NS506",)), (1e-3, ())):
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        assert normsmith.check(model, batches, optimizer=optimizer, **given).codes == codes

Fix: `for group in optimizer.param_groups: group["lr"] /= 10`, or a warm-up. Until then
    `model = normsmith.surgery.recalibrate(model, batches).apply()` before each evaluation. Batch renorm,
    `model = normsmith.surgery.convert(model, "renorm", total_steps=10_000).apply()` with the number of training steps,
    trains on nearly the statistics that evaluation uses.

Threads: keras-team/keras#3366, keras-team/keras#10666, patrick-kidger/equinox#659.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from normsmith._text import number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, Severity, UnavailableError
from normsmith.checks.rule import Rule
from normsmith.checks.shift import CHANNELS

MEAN, LOG_VARIANCE = 0.25, 0.4
_EPSILON = 1e-5
"""What is added to variances, as norms add it, where there is no norm."""
_NOTHING = 0.01
"""A variance that is this share of the layer's average, or less, is next to nothing."""
_LOWER = Fix("a lower learning rate, or a warm-up")
_FIX = Fix(
    "a lower learning rate; model = normsmith.surgery.recalibrate(model, batches).apply() before evaluation"
)
Moments = Sequence[tuple[Tensor, Tensor]]


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm whose input drifts, or for each layer in a network without norms."""
    norms = {norm.path: norm for norm in context.norms if not norm.is_frozen}
    signals = context.signals
    of_norms = {path: inputs for path, inputs in signals.inputs.items() if path in norms}
    for path, every in (of_norms or signals.layer_inputs).items():
        inputs = _with_scale(every)
        if len(inputs) < 2 or not len(inputs[0][0]):
            continue
        mean, logs = drift(inputs, norms[path].epsilon if path in norms else _EPSILON)
        beyond = ~(mean <= MEAN) | ~(logs <= LOG_VARIANCE)  # what is not a number is beyond
        share = float(beyond.double().mean())
        if share < CHANNELS:
            continue
        yield Finding(
            path,
            f"each step moves the input in {number(100 * share, 2)} % of the channels: there, means by "
            f"{number(float(mean[beyond].median()), 2)} σ, variances by a factor of "
            f"{number(float(logs[beyond].median().exp()), 2)}",
            "a learning rate that is too high for the layers before",
            _FIX if path in norms else _LOWER,
            quantity="share of channels",
            measured=share,
            threshold=CHANNELS,
            batches=signals.steps,
            also=norms[path].also if path in norms else (),
            severity=_severity(context, path in norms),
        )


def _with_scale(inputs: Moments) -> Moments:
    """The channels whose variance is at first not next to nothing beside that of their layer."""
    first = inputs[0][1] if inputs else torch.empty(0)
    has_scale = ~(first <= _NOTHING * first.mean())
    return [(mean[has_scale], var[has_scale]) for mean, var in inputs]


def drift(inputs: Moments, epsilon: float) -> tuple[Tensor, Tensor]:
    """By how much a step moves means, in σ, and logarithms of variances, on average; (channels,) each.

    >>> one = torch.ones(1)
    >>> drift([(0 * one, 4 * one), (one, 4 * one), (3 * one, 4 * one)], 0.0)
    (tensor([0.7500]), tensor([0.]))
    """
    means = torch.stack([mean for mean, _ in inputs])
    variances = torch.stack([var for _, var in inputs]) + epsilon
    moved = means.diff(dim=0).abs() / variances[:-1].sqrt()
    return moved.mean(0), variances.log().diff(dim=0).abs().mean(0)


def _severity(context: Context, of_norms: bool) -> Severity:
    """A warning where evaluation suffers from it after the steps, or without norms, training itself."""
    try:
        return (
            "info" if (context.cost_of_drift if of_norms else _cost_of_rates(context)) is None else "warning"
        )
    except UnavailableError:
        return "info"


def _cost_of_rates(context: Context) -> str | None:
    if context.optimizer is None:
        return None
    return context.with_other_rates(dict.fromkeys(range(len(context.optimizer.param_groups)), 0.1)).cost


RULE = Rule(
    "NS506", "covariate-drift", "warning", check, __doc__, needs=("batches", "training"), varies=("info",)
)
