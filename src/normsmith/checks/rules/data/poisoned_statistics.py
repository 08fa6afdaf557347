"""The running statistics of a batch norm are NaN, infinite or negative, which no data can give.

What: a running mean that is not finite, a running variance that is not finite or below zero, or one of zero where eps
    is 0.

Formula: in evaluation y = γ·(x − running_mean) / sqrt(running_var + eps) + β: NaN where a statistic is, and β alone
    where the variance is infinite.

Why it hurts: one bad batch is enough, since a running average never loses a NaN. Training goes on unharmed, as it
    normalises by the batch; evaluation gives NaN, or the same answer to everything. A variance below zero, as faulty
    merges of checkpoints leave it, gives NaN, or wrong numbers where eps hides it.

Threshold: none: a value is possible or not.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8))
    batches = [torch.randn(16, 4) for _ in range(8)]
    model(torch.full((16, 4), float("nan")))
    findings = normsmith.check(model, batches, select=["NS410"])
    assert findings.codes == ("NS410",)
    model = findings.fix(model)
    assert model.eval()(batches[0]).isfinite().all()

Fix: `model = normsmith.surgery.recalibrate(model, batches).apply()` measures the statistics anew. So that it does not
    happen again: `model = normsmith.surgery.convert(model, "batch", on_nonfinite="skip").apply()`, whose layers leave
    batches with NaN or infinity out of their averages.

Threads: pytorch/pytorch#1206 (NaN after fine-tuning a ResNet), pytorch/pytorch#90342 (infinity under AMP),
    facebookresearch/SparseConvNet#190, MCC-WH/Token#9, pytorch/pytorch#106605 (negative variance).
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith.anatomy.broken_statistics import broken_statistics
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm with impossible statistics."""
    for norm in context.norms:
        broken = broken_statistics(norm.module) if norm.keeps_statistics else None
        if broken is None:
            continue
        code = "load another checkpoint, or unfreeze the layer and recalibrate"
        yield Finding(
            norm.path,
            broken.text,
            "a batch with NaN or infinity, an overflow in half precision, or a merge of checkpoints",
            Fix(code) if norm.is_frozen else context.recalibration(),
            also=norm.also,
        )


RULE = Rule("NS410", "poisoned-statistics", "error", check, __doc__)
