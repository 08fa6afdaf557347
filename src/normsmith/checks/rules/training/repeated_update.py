"""The running statistics of a batch norm are updated more than once from the same samples in a training step.

What: your `training_step`, or the usual one with your loss, is run on a copy. Reported is a norm whose statistics move
    again from the same samples, in one of two ways. Activation checkpointing (`torch.utils.checkpoint`) computes the
    forward again in the backward. Or a second forward in training mode has the same input, either without a gradient
    (for a metric), or again with shifted weights before the step (sharpness-aware minimisation). Losses that compare
    two views of a sample, several calls in one forward (NS106) and forwards on different samples (NS310) are left
    alone.

Formula: two updates by the same batch are one with the momentum 1 − (1 − m)², where m is the norm's momentum: 0.19 for
    0.1.

Why it hurts: running statistics follow the last batches about twice as closely and are noisier; where only parts of a
    network are checkpointed, its norms follow them at different speeds. A forward for a metric, besides, drops units
    and normalises as training does, so that the metric is not that of evaluation.

Threshold: a second update from the same samples.

Reproduction:
    import normsmith, torch
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    class Model(nn.Sequential):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    model = Model(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    batches = [(torch.randn(32, 4), torch.randint(2, (32,))) for _ in range(4)]
    given = {"loss": nn.functional.cross_entropy, "level": "deep", "select": ["NS304"]}
    findings = normsmith.check(model, batches, **given)
    assert findings.codes == ("NS304",)
    assert normsmith.check(findings.fix(model), batches, **given).passed()

Fix: for checkpointing `model = normsmith.surgery.convert(model, "batch").apply()`: normsmith's layers notice that a
    forward is computed again, and update once. For a metric use the output that the step has already computed, or
    `model.eval()` around the extra forward and `model.train()` after it. For sharpness-aware steps, with
    `norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]`, do `for norm in norms: norm.momentum = 0.0`
    before the second forward, and put the old value back after it.

Threads: pytorch/pytorch#96136, pytorch/pytorch#62471, gpleiss/efficient_densenet_pytorch#73, m2lines/Samudra#572
    (an extra forward too), facebookresearch/fairscale#1035, deepinsight/insightface#2053.
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith._text import count
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.checks.watcher import Record
from normsmith.surgery import convert

_GUARD = Fix(
    'model = normsmith.surgery.convert(model, "batch").apply()',
    plan=lambda model: convert(model, to="batch"),
    keeps_outputs=True,
)
_EVAL = Fix(
    "use the output that is there, or keep the statistics in the extra forward: model.eval(), or momentum=0"
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm that a step updates again."""
    steps = context.training.every_step
    for norm in context.norms:
        again = [
            (
                sum(call.moved and call.forward is None for call in record.calls_of(norm.path)),
                _extra(norm, record),
            )
            for record in steps
        ]
        recomputed, extra = max(again, key=sum, default=(0, 0))
        if recomputed or extra:
            yield Finding(
                norm.path,
                f"its running statistics move again {count(recomputed + extra, 'time')} in a training step, "
                f"{'when checkpointing computes its forward again' if recomputed else 'in an extra forward'}",
                "activation checkpointing"
                if recomputed
                else "a second forward in training mode, for a metric or a log, or with other weights",
                _GUARD if recomputed else _EVAL,
                quantity="updates beyond the first",
                measured=recomputed + extra,
                threshold=0,
                also=norm.also,
            )


def _extra(norm: Norm, record: Record) -> int:
    """How many forwards move a norm by an input that has moved it already."""
    moving = sorted(
        {call.forward for call in record.calls_of(norm.path) if call.moved and call.forward is not None}
    )
    extra = 0
    for at, later in enumerate(moving):
        same = [one for one in moving[:at] if record.forwards[one].inputs == record.forwards[later].inputs]
        extra += bool(same) and not _are_views(record, same[-1], later)
    return extra


def _are_views(record: Record, earlier: int, later: int) -> bool:
    """Whether two forwards on the same input are for one loss, or for two updates of the parameters."""
    if not (record.forwards[earlier].reached and record.forwards[later].reached):
        return False
    one_loss = record.before(earlier, "backward") == record.before(later, "backward")
    return one_loss or record.before(earlier, "step") != record.before(later, "step")


RULE = Rule("NS304", "repeated-update", "warning", check, __doc__, needs=("batches", "training"))
