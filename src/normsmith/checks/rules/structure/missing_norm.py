"""A deep network has no norm at all, and the scale of its activations changes from layer to layer.

What: five linear layers or convolutions or more, no norm of any kind, and on a batch in evaluation the variances of
    the layers' outputs differ by more than a factor of 10, with a standard deviation outside of [0.5, 2]. The last
    layer is left out, and so are those that put out a constant, as branches that begin at 0 do. Networks whose
    initial weights keep the scale, and self-normalizing ones, are fine. Information.

Formula: max var(h_l) / min var(h_l) > 10 over the layers l, and some sqrt(var(h_l)) < 0.5 or > 2.

Why it hurts: gradients change by the same factors: the first layers learn too slowly, or the last ones too fast, and no
    learning rate fits all. Norms after each layer, or better initial weights, set the scale.

Threshold: a ratio of 10 as in SageMaker Debugger, the range as in TheDeepChecker; five layers, our own.

Reproduction:
    import normsmith, torch
    from torch import nn

    layers = [layer for _ in range(6) for layer in (nn.Linear(16, 16), nn.ReLU())]  # torch's own initial weights
    model, batches = nn.Sequential(*layers, nn.Linear(16, 2)), [torch.randn(64, 16)]
    findings = normsmith.check(model, batches, select=["NS107"])
    assert findings.codes == ("NS107",)
    assert findings.passed()  # it is information
    normsmith.surgery.insert(model, "batch").apply()
    assert not normsmith.check(model, batches, select=["NS107"])

Fix: `surgery.insert(model, "batch").apply()` before training, or initial weights that keep the scale:
    `layers.init`.

Threads: jay-mahadeokar/pynetbuilder#8, AlexeyAB/darknet#4135 (NaN without), Holmeyoung/crnn-pytorch#55,
    wy1iu/sphereface#31 (not needed where it converges).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._text import count, number
from normsmith.anatomy.kinds import is_norm
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.moments import numbered
from normsmith.checks.restore import modes_kept
from normsmith.checks.rule import Rule

LAYERS = 5
RATIO = 10.0
LOW, HIGH = 0.5, 2.0


def check(context: Context) -> Iterator[Finding]:
    """One finding for a deep network without norms whose scales differ."""
    graph = context.graph
    layers = [event.module for event in graph.having("producer") if event.module is not None]
    has_norm = graph.having("norm") or any(is_norm(module) for module in context.network.modules())
    if has_norm or len(layers) < LAYERS:
        return
    variances = _variances(context, layers[:-1])
    low, high = min(variances), max(variances)
    ratio = high / low
    if ratio > RATIO and (low < LOW**2 or high > HIGH**2):
        yield Finding(
            "",
            f"has {count(len(layers), 'layer')} with weights and no norm; standard deviations of their outputs go from "
            f"{number(low**0.5, 2)} to {number(high**0.5, 2)}",
            "initial weights that do not keep the scale, or inputs that are not scaled",
            Fix('surgery.insert(model, "batch").apply(), before training'),
            quantity="ratio of variances",
            measured=ratio,
            threshold=RATIO,
            batches=1,
        )


def _variances(context: Context, layers: list[nn.Module]) -> list[float]:
    """The variance of all values that each layer puts out, over its calls on the first batch in evaluation."""
    variances: list[float] = []

    def look(_: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            variances.append(
                float(output.detach().double().var())
            )  # 0: a branch that begins with weights of 0

    with modes_kept(context.network), torch.no_grad(), ExitStack() as stack:
        for layer in dict.fromkeys(layers):
            stack.callback(layer.register_forward_hook(look).remove)
        context.network.eval()
        numbered(context.output)(context.network, context.batches[0])
    return [variance for variance in variances if variance > 0] or [1.0]


RULE = Rule("NS107", "missing-norm", "info", check, __doc__, needs=("graph", "batches"))
