"""One batch norm is called several times in a forward, on inputs with different statistics.

What: a batch norm that is not frozen is called more than once in a forward. Given batches, the check measures whether
    its calls get inputs with the same statistics, as the two halves of a siamese network do: then nothing is wrong, and
    nothing is reported. Without batches it is information. NS412 asks what such a difference costs, NS310 looks at
    several forwards in a step.

Formula: training normalises call k by its own batch's mean and standard deviation (μ_k, σ_k); evaluation normalises all
    calls by one running average of them. Reported is |μ_k − μ_1| / σ_1 > 0.1 or |log σ²_k − log σ²_1| > 0.2, beyond
    sampling error, in a tenth of the channels.

Why it hurts: the running average fits none of the calls: the network is good in training and bad in evaluation, however
    long it trains. Each call updates the average, so that the last call counts most and the average changes as fast as
    with a larger momentum.

Threshold: more than one call, and the differences above. They are our own choice, the same as in NS404; the healthy
    networks that we measured stay below them.

Reproduction:
    import normsmith, torch
    from torch import nn

    norm = nn.BatchNorm1d(8)
    model = nn.Sequential(nn.Linear(4, 8), norm, nn.ReLU(), nn.Linear(8, 8), norm, nn.ReLU(), nn.Linear(8, 2))
    batches = [torch.randn(64, 4) for _ in range(8)]
    findings = normsmith.check(model, batches, select=["NS106"])
    assert findings.codes == ("NS106",)
    assert findings[0].also == ("4",)

Fix: one norm for each call, as `norm1, norm2 = nn.BatchNorm1d(8), nn.BatchNorm1d(8)`; if they are to share γ and β,
    `norm2.weight, norm2.bias = norm1.weight, norm1.bias`. In recurrent networks keep statistics for each step, as in
    `normsmith.BatchNormLSTM`. Then train again.

Threads: pytorch/pytorch#1738 (worse in evaluation), keras-team/keras#8794 (siamese), keras-team/keras#2944,
    carlthome/tensorflow-convlstm-cell#5.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.moments import Call
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.checks.shift import Shift, noise_of, shift

_FIX = Fix(
    "one nn.BatchNorm for each call; in recurrent networks statistics per step (normsmith.BatchNormLSTM)"
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm whose calls differ, or may differ where no batches can tell."""
    for norm in context.norms:
        calls = len(context.calls(norm))
        if calls < 2 or norm.is_frozen:
            continue
        measured = context.calls_of(norm) if context.looks_at_data and context.data is not None else ()
        if not measured:
            yield _finding(norm, calls, "give batches to see whether its inputs differ", severity="info")
            continue
        away = max(_shifts(measured, norm.epsilon), key=lambda one: one.share)
        if away.counts:
            yield _finding(norm, calls, f"statistics of its inputs differ {away.text}", len(context.measured))


def _finding(norm: Norm, calls: int, what: str, batches: int = 0, severity: str = "") -> Finding:
    return Finding(
        norm.path,
        f"is called {calls} times in a forward; {what}",
        "one module used at several places, or in a loop over steps",
        _FIX,
        quantity="calls per forward",
        measured=calls,
        threshold=1,
        batches=batches,
        also=norm.also,
        severity="info" if severity == "info" else "",
    )


def _shifts(calls: tuple[Call, ...], epsilon: float) -> Iterator[Shift]:
    """How far each later call is from the first, over the batches."""
    numbers = sorted({call.number for call in calls})
    each = {number: [call for call in calls if call.number == number] for number in numbers}
    first = _average(each[numbers[0]])
    noise = noise_of(each[numbers[0]], epsilon)
    for number in numbers[1:]:
        yield shift(_average(each[number]), first, epsilon, noise, 2 / noise.batches)


def _average(calls: list[Call]) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.stack([call.mean for call in calls]).mean(0),
        torch.stack([call.var for call in calls]).nanmean(0),
    )


RULE = Rule("NS106", "reused-norm", "warning", check, __doc__, needs=("graph",), varies=("info",))
