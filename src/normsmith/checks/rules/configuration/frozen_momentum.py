"""The momentum of a batch norm is 0 or 1: its running statistics never move, or are always the last batch's.

What: a momentum of 1 in a batch norm that updates its running statistics; or a momentum of 0 where these are still mean
    0 and variance 1, as in a new layer. People also use a momentum of 0 to freeze statistics that were loaded or
    measured; that is left alone.

Formula: running ← (1 − momentum)·running + momentum·batch.

Why it hurts: with 0, evaluation never normalises: it subtracts 0 and divides by 1, while training normalises by the
    batch. With 1, evaluation normalises by the statistics of whatever batch came last.

Threshold: exactly 0 and exactly 1. From 0.5 to 1 NS201 reports it.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.0), nn.ReLU())
    batches = [torch.randn(8, 3, 8, 8) for _ in range(4)]
    findings = normsmith.check(model, select=["NS209"])
    assert findings.codes == ("NS209",)
    model = findings.fix(model)
    assert model[1].momentum == 0.1
    assert normsmith.check(model, select=["NS209"]).passed()

Fix: `model = normsmith.surgery.set_momentum(model, 0.1, only=path).apply()` with the finding's path, then train on, or
    measure the statistics with `model = normsmith.surgery.recalibrate(model, batches).apply()`. If you meant to freeze
    them, load them first, and say so: `model = normsmith.surgery.freeze(model, "statistics").apply()`.

Threads: pytorch/pytorch#15298 (0 taken for "only the new batch"), jwyang/faster-rcnn.pytorch#170 (which way round).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule
from normsmith.surgery import set_momentum

_USUAL = 0.1


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm whose momentum is one of the two ends."""
    for norm in context.norms:
        if norm.momentum not in (0, 1) or norm.is_frozen or not norm.updates:
            continue
        if norm.momentum == 0 and not norm.is_at_start:
            continue
        what = "never move from 0 and 1" if norm.momentum == 0 else "are always those of the last batch"
        yield Finding(
            norm.path,
            f"momentum is {norm.momentum:g}: the running statistics {what}",
            "momentum taken for the weight of the old statistics, or a freeze without statistics"
            if norm.momentum == 0
            else "momentum taken for the weight of the old statistics",
            Fix(
                f"model = normsmith.surgery.set_momentum(model, {_USUAL}, only={norm.path!r}).apply()",
                plan=partial(set_momentum, momentum=_USUAL, only=norm.path),
                keeps_outputs=True,
            ),
            quantity="momentum",
            measured=norm.momentum,
            threshold=norm.momentum,
            also=norm.also,
        )


RULE = Rule("NS209", "frozen-momentum", "warning", check, __doc__)
