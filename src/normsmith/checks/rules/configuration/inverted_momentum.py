"""The momentum of a batch norm is so large that its running statistics are those of the last batch or two.

What: a batch norm that updates its running statistics has a momentum of 0.5 or more (1 is NS209's).

Formula: running ← (1 − momentum)·running + momentum·batch. The average covers about (2 − momentum) / momentum
    batches: 19 of them at 0.1, one at 0.99.

Why it hurts: evaluation normalises by running statistics. Where these are one batch's, they are noise: outputs and
    metrics in evaluation jump from one evaluation to the next, and are worst after a small last batch.

Threshold: 0.5, our own: there the average covers 3 batches. Recipes use 0.001 to 0.1, those of TensorFlow and Keras
    (0.9 to 0.999) count the other way round: theirs is 1 − ours. A detector's 0.03 and a momentum of None are fine.

Reproduction:
    import normsmith
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16, momentum=0.99), nn.ReLU())
    findings = normsmith.check(model)
    assert findings.codes == ("NS201",)
    model = findings.fix(model)
    assert model[1].momentum == 0.01
    assert normsmith.check(model).passed()

Fix: give the layer 1 − momentum, as `surgery.set_momentum(model, 0.01, only="1").apply()`; then train on for a few
    epochs, or recalibrate, since the statistics that are there are one batch's.

Threads: pytorch/vision#8250 (MaxViT with 0.99), r9y9/tacotron_pytorch#19, ludwig-ai/ludwig#2100,
    kazuto1011/deeplab-pytorch#79 (0.999), pytorch/examples#289.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from normsmith._text import exact, number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.surgery import set_momentum

THRESHOLD = 0.5
_USUAL = 0.1
"""What torch takes, where 1 − momentum would be large as well."""


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm that updates its statistics with such a momentum."""
    for norm in context.norms:
        momentum = norm.momentum
        if momentum is None or not THRESHOLD <= momentum < 1 or norm.is_frozen or not norm.updates:
            continue
        covered = (2 - momentum) / momentum
        yield Finding(
            norm.path,
            f"momentum is {exact(momentum)}: the running statistics are those of the last {number(covered)} batches",
            "TensorFlow's convention: its 0.99 is 0.01 here",
            _fix(norm, momentum),
            quantity="momentum",
            measured=momentum,
            threshold=THRESHOLD,
            also=norm.also,
        )


def _fix(norm: Norm, momentum: float) -> Fix:
    better = min(float(exact(1 - momentum)), _USUAL)
    return Fix(
        f"surgery.set_momentum(model, {exact(better)}, only={norm.path!r}).apply()",
        plan=partial(set_momentum, momentum=better, only=norm.path),
        keeps_outputs=True,
    )


RULE = Rule("NS201", "inverted-momentum", "warning", check, __doc__)
