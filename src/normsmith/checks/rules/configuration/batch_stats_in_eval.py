"""A batch norm without running statistics normalises by the batch in evaluation too.

What: a batch norm with `track_running_stats=False`, or whose running statistics were taken away. Instance norms are
    meant to be like that and are left alone, and so is a layer of normsmith on which `layer.freeze("batch")` was
    called.

Formula: in evaluation y = γ·(x − mean(batch)) / sqrt(var(batch) + eps) + β, where mean and variance should be those of
    the training data.

Why it hurts: the output for a sample depends on the samples beside it, on the batch size and on the order. A batch of
    one sample gives β alone, or an error. Metrics on sorted validation data can be far off.

Threshold: none: the setting is there or not.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8, track_running_stats=False)).eval()
    batches = [torch.randn(4, 4) for _ in range(8)]
    x = batches[0]
    assert not torch.allclose(model(x)[:2], model(x[:2]))  # the same samples, another batch
    findings = normsmith.check(model, select=["NS204"])
    assert findings.codes == ("NS204",)

Fix: build the layer with `track_running_stats=True`, the default, as here by `model[1] = nn.BatchNorm1d(8)`, and
    measure its statistics, by training on or with `model = normsmith.surgery.recalibrate(model, batches).apply()`. If
    you want batch statistics in evaluation, convert first, then declare it:
    `model = normsmith.surgery.convert(model, "batch").apply()`, then `model.get_submodule(path).freeze("batch")` with
    the finding's path.

Threads: pytorch/pytorch#156051 (batch of one), pytorch/pytorch#37823, pytorch/pytorch#20967, xu-ji/IIC#49,
    pytorch/pytorch#30294.
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule
from normsmith.layers.statistics import StatisticsBase


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm without running statistics."""
    for norm in context.norms:
        pinned = isinstance(norm.module, StatisticsBase) and norm.module.pinned is not None
        if norm.keeps_statistics or pinned:
            continue
        yield Finding(
            norm.path,
            "has no running statistics: in evaluation it normalises by the batch",
            "track_running_stats=False",
            Fix(
                f"{norm.path or 'the layer'}: build it with track_running_stats=True, then "
                "model = normsmith.surgery.recalibrate(model, batches).apply()"
            ),
            also=norm.also,
        )


RULE = Rule("NS204", "batch-stats-in-eval", "warning", check, __doc__)
