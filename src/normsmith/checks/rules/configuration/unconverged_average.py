"""The running statistics of a batch norm have averaged too few batches: much of them is still the initial 0 and 1.

What: by its momentum and its counter of batches (`num_batches_tracked`), more than 5 % of a batch norm's running
    average is still the mean 0 and the variance 1 that a new layer has. Given batches, statistics are also measured on
    one part of them, and the loss or metric is compared on the rest; it is reported only if the network is better with
    the newly measured statistics. Left alone are frozen layers, new networks, and statistics that were loaded without
    `num_batches_tracked`, so that the counter says nothing about them.

Formula: running = r·start + (1 − r)·average, with r = (1 − momentum)^batches: 0.04 after 30 batches at 0.1, but 0.74 at
    0.01. The start is mean 0 and variance 1. A variance below r means that the average did not start at 1, and then
    nothing is reported.

Why it hurts: evaluation normalises by this mixture, training by the batch: the network is good in training and bad in
    evaluation, mostly after few epochs, the more so the smaller the momentum. The same happens with few, large
    accumulated steps, and when a norm is frozen early.

Threshold: r > 0.05, our own choice: variances are then off by 5 % of their distance from 1. Given batches, also a loss
    that is worse by 0.05 or a metric by 0.01 (one percentage point), beyond noise, as in NS404.

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

Fix: `model = normsmith.surgery.recalibrate(model, batches).apply()` measures the statistics at once. *Before* a short
    training set a larger momentum, or a plain average over all batches:
    `model = normsmith.surgery.set_momentum(model, None).apply()`. Afterwards that does not help, as the average would
    go on from the bad value.

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
