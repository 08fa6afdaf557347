"""Gradients vanish or explode on their way to the first layer, which stands still or jumps.

What: in eight training steps on a copy, the gradient of the first layer's weight is on average less than a thousandth
    of the last layer's, or more than 70 times as large; or it is next to nothing. Skipped are frozen layers, which have
    no gradient, and last layers whose weights start at 0, since no gradient passes them at first. Where several layers
    are first (queries, keys and values), all of them have to be so. It is a warning where the network fits its targets
    no better than shuffled ones (each sample gets the target of another), and information where it has learned anyway.

Formula: mean|g_first| / mean|g_last| < 0.001 or > 70, and the same of ‖g_first‖/‖w_first‖ and ‖g_last‖/‖w_last‖, with
    the gradient g of a layer's weight w; |g| is the size of each entry of it, and ‖g‖ the Euclidean norm of all
    entries. Dividing by ‖w‖ makes layers of different size comparable. Or mean|g_first| < 1e-7 and ‖g_first‖/‖w_first‖
    < 1e-6. All are medians over the steps.

Why it hurts: with one learning rate for all layers, either the first layers stand still or the last ones do. Adam
    divides by the size of the gradient, but the direction of a vanishing gradient is little more than noise.

Threshold: 0.001 and 70 are those of AutoTrainer, 1e-7 that of Amazon SageMaker Debugger. That both measures must agree
    is our own choice.

Reproduction:
    import normsmith, torch
    from torch import nn

    layers = [layer for _ in range(9) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    model = nn.Sequential(*layers, nn.Linear(16, 2))
    batches = [(torch.randn(64, 16), torch.randint(2, (64,))) for _ in range(8)]
    given = {"loss": nn.functional.cross_entropy, "level": "deep", "select": ["NS504"]}
    assert normsmith.check(model, batches, **given).codes == ("NS504",)
    normsmith.surgery.insert(model, "batch").apply()
    assert normsmith.check(model, batches, **given).passed()

Fix: `model = normsmith.surgery.insert(model, "batch").apply()` before training, residual connections, or initial
    weights that keep the scale: with a batch, `x = batches[0][0]`, by
    `normsmith.layers.init.unit_variance_(model, lambda model: model(x))`. Where gradients explode, also
    `torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)` before the optimizer's step.

Threads: ryanaleksander/kernel-convolution#2, SilasMarvin/dnns-from-scratch-in-zig#7, vlfeat/matconvnet#980 (explode).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

from normsmith._text import number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule
from normsmith.checks.signals import WeightSignal

LOW, HIGH = 1e-3, 70.0
NOTHING, NOTHING_RELATIVE = 1e-7, 1e-6
"""A mean of |gradient|, and a gradient's norm over the weight's, that are next to nothing."""


def check(context: Context) -> Iterator[Finding]:
    """A finding for the first layer whose weight trains, if its gradient is out of scale with the last layer's."""
    firsts, lasts = _ends(context)
    if not (firsts and lasts and all(signal.has_scale for signal in lasts)):
        return
    first, last = max(firsts, key=_size), min(lasts, key=_size)
    is_nothing = _size(first) < NOTHING and _typical(first.relative) < NOTHING_RELATIVE
    vanishes = is_nothing or max(_ratios(first, last)) < LOW
    if not vanishes:
        if not all(signal.has_scale for signal in firsts):
            return  # in units of a weight that begins at 0, any gradient is large
        first, last = min(firsts, key=_size), max(lasts, key=_size)
        if min(_ratios(first, last)) <= HIGH:
            return
    yield Finding(
        first.path,
        f"the mean of |gradient| is {number(_size(first), 2)} here and {number(_size(last), 2)} at the last layer, "
        f"{last.path}",
        "each layer multiplies the gradient by a factor: initial weights, saturated activations, and no norm",
        Fix('model = normsmith.surgery.insert(model, "batch").apply()  # before training')
        if vanishes
        else Fix("torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) before optimizer.step()"),
        quantity="ratio of gradients",
        measured=_ratios(first, last)[0],
        threshold=LOW if vanishes else HIGH,
        batches=context.signals.steps,
        severity="warning" if context.has_learned is False else "info",
    )


def _ratios(first: WeightSignal, last: WeightSignal) -> tuple[float, float]:
    """The first layer's gradient over the last one's, and the same in units of their weights."""
    return _over(_size(first), _size(last)), _over(_typical(first.relative), _typical(last.relative))


def _over(one: float, other: float) -> float:
    if one == other or math.isinf(other):
        return 1.0 if math.isfinite(one) else math.inf
    return one / other if other else math.inf


def _size(signal: WeightSignal) -> float:
    return _typical(signal.gradients)


def _typical(values: list[float]) -> float:
    return median(values) if all(map(math.isfinite, values)) else math.inf


def _ends(context: Context) -> tuple[list[WeightSignal], list[WeightSignal]]:
    """The layers before which no other one has a gradient, and those after them that no other one follows."""
    graph = context.graph
    signals = {signal.path: signal for signal in context.signals.weights if signal.gradients}
    calls = [event for event in graph.having("producer") if event.path in signals]
    before = {
        event: {other.path for other in calls if graph.leads_to(other, event)} - {event.path}
        for event in calls
    }
    firsts = {event.path for event in calls if not before[event]}
    followed = set[str]().union(*before.values())
    lasts = {event.path for event in calls if before[event] & firsts} - followed
    leading = set[str]().union(*(before[event] for event in calls if event.path in lasts))
    return [signals[path] for path in sorted(firsts & leading)], [signals[path] for path in sorted(lasts)]


RULE = Rule(
    "NS504",
    "gradient-scale",
    "warning",
    check,
    __doc__,
    needs=("graph", "batches", "training"),
    varies=("info",),
)
