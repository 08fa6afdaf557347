"""The running statistics of a batch norm have averaged too few batches: much of them is still the initial 0 and 1.

What: by its momentum and its counter of batches, more than 5 % of a batch norm's running average is the mean 0 and the
    variance 1 that a new layer has. With batches it is also measured whether that costs loss or metric, on batches
    that were held back; then only is it said. Frozen layers, new networks and statistics that cannot have begun at 1
    (loaded without their counter) are left alone.

Formula: running = r·start + (1 − r)·average, with r = (1 − momentum)^batches: 0.04 after 30 batches at 0.1, but 0.74
    at 0.01. A variance below r has not begun at 1.

Why it hurts: evaluation normalises by this mixture, training by the batch: good in training, bad in evaluation, and
    the more so the shorter the training, or the smaller the momentum. Accumulating gradients over many batches, or
    freezing soon, does the same.

Threshold: r > 0.05, our own: then variances are off by 5 % of their distance from 1. And a cost as in NS404, where
    there are batches.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=0.01), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = [30 + 10 * torch.randn(32, 4) for _ in range(64)]
    batches = [(x, (x[:, 0] > 30).long()) for x in data]
    loss = nn.functional.cross_entropy
    for x, y in batches:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    assert normsmith.check(model, select=["NS202"]).codes == ("NS202",)
    findings = normsmith.check(model, batches, loss=loss, select=["NS202"])
    assert findings.codes == ("NS202",)
    model = findings.fix(model)
    assert normsmith.check(model, batches, loss=loss, select=["NS202"]).passed()

Fix: `surgery.recalibrate(model, batches).apply()` measures them at once; for short trainings take a larger momentum,
    or `momentum=None`, the plain average.

Threads: tensorflow/tensorflow#1122 (poor test results, "you only train for a few iterations"),
    soloice/Chinese-Character-Recognition#5 (poor for the first 10,000 iterations), tensorlayer/TensorLayer#104.
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith._text import count, exact, number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule

THRESHOLD = 0.05


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm with such an average, where that costs something or no batches can tell."""
    unconverged = {norm: norm.initial_share for norm in context.norms if _unconverged(norm)}
    if not unconverged:
        return
    cost, looked = "", 0
    if context.looks_at_data and context.data is not None:
        moments = context.moments
        measured = {
            norm.module: moments[norm.module].statistics for norm in unconverged if norm.module in moments
        }
        told = context.compare(measured).cost if measured else None
        if told is None:
            return
        cost, looked = f"; {told}", len(context.measured)
    for norm, rest in unconverged.items():
        assert norm.momentum is not None  # or nothing were left of the start
        batches = count(norm.updates_counted, "batch")
        yield Finding(
            norm.path,
            f"has averaged {batches} at momentum {exact(norm.momentum)}: {number(100 * rest, 2)} % of its running "
            f"statistics are still 0 and 1{cost}",
            "a training too short for the momentum",
            context.recalibration(),
            quantity="share of the initial values",
            measured=rest,
            threshold=THRESHOLD,
            batches=looked,
            also=norm.also,
        )


def _unconverged(norm: Norm) -> bool:
    """Whether too much of the start is left in a norm that is in use, and not frozen."""
    is_new = norm.tensors.get("weight") is not None and not norm.has_trained
    if is_new or norm.is_frozen or norm.is_at_start or not norm.updates:
        return False
    return norm.initial_share > THRESHOLD


RULE = Rule("NS202", "unconverged-average", "warning", check, __doc__)
