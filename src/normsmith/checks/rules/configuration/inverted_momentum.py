"""The momentum of a batch norm is so large that its running statistics are those of the last few batches.

What: a batch norm that updates its running statistics has a momentum of 0.5 or more. Exactly 1 is reported by NS209.

Formula: running ← (1 − momentum)·running + momentum·batch. The average is as noisy as a plain mean of
    (2 − momentum) / momentum batches: 19 of them at 0.1, 3 at 0.5, one at 0.99.

Why it hurts: evaluation normalises by running statistics. Where they are those of a batch or three, they are noise:
    outputs and metrics in evaluation jump from one evaluation to the next, and are worst after a small last batch. The
    usual cause is a value copied from TensorFlow or Keras, which count the other way round.

Threshold: 0.5, our own choice: the average then covers 3 batches. Torch recipes use 0.001 to 0.1 and detectors 0.03.
    TensorFlow and Keras have 0.9 to 0.999 where torch has 1 − that. None, the plain average of all batches, is fine.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16, momentum=0.99), nn.ReLU())
    batches = [torch.randn(32, 8) for _ in range(4)]
    findings = normsmith.check(model)
    assert findings.codes == ("NS201",)
    model = findings.fix(model)
    assert model[1].momentum == 0.01
    assert normsmith.check(model).passed()

Fix: `model = normsmith.surgery.set_momentum(model, 0.01, only=path).apply()` for a momentum of 0.99 (1 − 0.99), with
    the finding's path; without `only` it sets all norms. Then train on for a few epochs, or measure the statistics anew
    with `model = normsmith.surgery.recalibrate(model, batches).apply()`, since the ones it has are noise.

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
        f"model = normsmith.surgery.set_momentum(model, {exact(better)}, only={norm.path!r}).apply()",
        plan=partial(set_momentum, momentum=better, only=norm.path),
        keeps_outputs=True,
    )


RULE = Rule("NS201", "inverted-momentum", "warning", check, __doc__)
