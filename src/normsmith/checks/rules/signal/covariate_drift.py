"""What reaches a batch norm moves so far in each training step that running statistics cannot follow.

What: in eight training steps on a copy, the mean or variance of a norm's input, always on the same batch, moves far
    from step to step in a tenth of the channels or more. It is a warning where evaluation with the running statistics
    costs loss or metric after these steps, as in NS404; information otherwise.

Formula: |μ after step t+1 − μ after step t| / (σ after step t), on average over the steps t, is above 0.25; or |log σ²
    after step t+1 − log σ² after step t| is above 0.4, with the mean μ and variance σ² of a channel.

Why it hurts: a running average with the momentum m is behind by about (1 − m)/m steps: nine at 0.1. Where each step
    moves the input by a quarter of its standard deviation σ, evaluation during training is far off, and the layers
    after the norm learn from inputs that soon are others.

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


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm whose input drifts."""
    norms = {norm.path: norm for norm in context.norms if not norm.is_frozen}
    for path, inputs in context.signals.inputs.items():
        if path not in norms or len(inputs) < 2:
            continue
        mean, logs = drift(inputs, norms[path].epsilon)
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
            Fix(
                "a lower learning rate; model = normsmith.surgery.recalibrate(model, batches).apply() before evaluation"
            ),
            quantity="share of channels",
            measured=share,
            threshold=CHANNELS,
            batches=context.signals.steps,
            also=norms[path].also,
            severity=_severity(context),
        )


def drift(inputs: Sequence[tuple[Tensor, Tensor]], epsilon: float) -> tuple[Tensor, Tensor]:
    """By how much a step moves means, in σ, and logarithms of variances, on average; (channels,) each.

    >>> one = torch.ones(1)
    >>> drift([(0 * one, 4 * one), (one, 4 * one), (3 * one, 4 * one)], 0.0)
    (tensor([0.7500]), tensor([0.]))
    """
    means = torch.stack([mean for mean, _ in inputs])
    variances = torch.stack([var for _, var in inputs]) + epsilon
    moved = means.diff(dim=0).abs() / variances[:-1].sqrt()
    return moved.mean(0), variances.log().diff(dim=0).abs().mean(0)


def _severity(context: Context) -> Severity:
    """A warning where evaluation suffers from it after the steps."""
    try:
        return "info" if context.cost_of_drift is None else "warning"
    except UnavailableError:
        return "info"


RULE = Rule(
    "NS506", "covariate-drift", "warning", check, __doc__, needs=("batches", "training"), varies=("info",)
)
