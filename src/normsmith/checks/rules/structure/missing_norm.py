"""A deep network has no norm at all, and the scale of its activations changes from layer to layer.

What: a network has five or more linear layers, convolutions or recurrent layers without gates, and no norm of any kind;
    the variances of the layers' outputs differ by more than a factor of 10, and some standard deviation is outside of
    [0.5, 2]. Three kinds of layers are left out: the last one, those that end a residual branch, and those that put out
    a constant, as branches that begin at 0 do. Networks whose initial weights keep the scale, and self-normalising
    ones, are fine, and so are those that have learned their data without norms, if you give a loss that shows this. It
    is information only. NS107 looks at one batch in evaluation mode; NS503 trains a few steps and asks whether it costs
    anything.

Formula: max var(h_l) / min var(h_l) > 10, and sqrt(var(h_l)) < 0.5 or > 2 for some l, where h_l is the output of layer
    l.

Why it hurts: gradients change by the same factors: the first layers learn too slowly, or the last ones too fast, and no
    learning rate fits all. Norms after each layer, or better initial weights, set the scale.

Threshold: the ratio of 10 is that of Amazon SageMaker Debugger, the range [0.5, 2] that of TheDeepChecker; the five
    layers are our own choice.

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

Fix: `model = normsmith.surgery.insert(model, "batch").apply()` before training, or initial weights that keep the scale:
    `normsmith.layers.init.he_(model)` for ReLU.

Threads: jay-mahadeokar/pynetbuilder#8, AlexeyAB/darknet#4135 (NaN without), Holmeyoung/crnn-pytorch#55,
    wy1iu/sphereface#31 (not needed where it converges).
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith._text import count, number
from normsmith.anatomy.kinds import is_norm
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule
from normsmith.checks.scales import RATIO, is_layer

LAYERS = 5


def check(context: Context) -> Iterator[Finding]:
    """One finding for a deep network without norms whose scales differ."""
    graph = context.graph
    layers = [event.module for event in graph.events if event.module is not None and is_layer(event)]
    has_norm = graph.having("norm") or any(is_norm(module) for module in context.network.modules())
    if has_norm or len(layers) < LAYERS:
        return
    scales = context.scales
    if scales.are_apart and not context.has_learned:
        yield Finding(
            "",
            f"has {count(len(layers), 'layer')} with weights and no norm, and the scale of their outputs is not kept "
            f"(see NS503): variances differ by a factor of {number(scales.ratio, 2)}",
            "a deep network without norms, whose initial weights have to keep the scale",
            Fix('model = normsmith.surgery.insert(model, "batch").apply()  # before training'),
            quantity="ratio of variances",
            measured=scales.ratio,
            threshold=RATIO,
            batches=1,
        )


RULE = Rule("NS107", "missing-norm", "info", check, __doc__, needs=("graph", "batches"))
