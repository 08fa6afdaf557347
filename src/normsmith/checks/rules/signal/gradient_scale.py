"""Gradients vanish or explode on their way to the first layer, and the network has not learned so far.

What: in eight training steps on a copy, the gradient of the first layer's weight is on average less than a thousandth
    of the last layer's, or more than 70 times as large; or it is next to nothing. Frozen layers have no gradient and
    are passed by, and so are last layers that begin at 0, behind which nothing has a gradient at first. A warning
    where the network fits its targets no better than those of other samples; information where it has learned anyway.

Formula: mean|g_first| / mean|g_last| < 0.001 or > 70, and the same of ‖g‖/‖w‖, the gradient in units of the weight,
    which a layer's size does not change; or mean|g_first| < 1e−7 and ‖g_first‖/‖w_first‖ < 1e−6. Medians over the
    steps.

Why it hurts: with one learning rate for all, the first layers stand still, or the last ones do; with Adam, which
    divides by the gradient's size, little is left of its direction but noise.

Threshold: 0.001 and 70 as in AutoTrainer, 1e−7 as in SageMaker Debugger. That both measures must agree is our own.

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

Fix: `surgery.insert(model, "batch").apply()` before training, residual connections, or initial weights that keep the
    scale (`layers.init.unit_variance_`); where gradients explode `torch.nn.utils.clip_grad_norm_` as well.

Threads: ryanaleksander/kernel-convolution#2, SilasMarvin/dnns-from-scratch-in-zig#7, vlfeat/matconvnet#980 (explode).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, isfinite
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
    ends = _ends(context)
    if ends is None:
        return
    first, last = ends
    if not (first.has_scale and last.has_scale):
        return
    here, there = _typical(first.gradients), _typical(last.gradients)
    relative = _typical(first.relative)
    ratios = [_over(here, there), _over(relative, _typical(last.relative))]
    is_nothing = here < NOTHING and relative < NOTHING_RELATIVE
    explodes = min(ratios) > HIGH or not all(map(isfinite, (here, there)))
    if not (is_nothing or explodes or max(ratios) < LOW):
        return
    yield Finding(
        first.path,
        f"the mean of |gradient| is {number(here, 2)} here and {number(there, 2)} at the last layer, {last.path}",
        "each layer multiplies the gradient by a factor: initial weights, saturated activations, and no norm",
        Fix("torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) before optimizer.step()")
        if explodes
        else Fix('surgery.insert(model, "batch").apply(), before training'),
        quantity="ratio of gradients",
        measured=ratios[0],
        threshold=HIGH if explodes else LOW,
        batches=context.signals.steps,
        severity="warning" if context.has_learned is False else "info",
    )


def _typical(values: list[float]) -> float:
    return median(values) if all(map(isfinite, values)) else inf


def _over(one: float, other: float) -> float:
    return one / other if other else inf if one else 1.0


def _ends(context: Context) -> tuple[WeightSignal, WeightSignal] | None:
    """The first layer that trains, and the last one that is computed from it, where both had gradients."""
    graph = context.graph
    signals = {signal.path: signal for signal in context.signals.weights if signal.gradients}
    calls = [event for event in graph.having("producer") if event.path in signals]
    for first in calls:
        later = [event for event in calls if event.path != first.path and graph.leads_to(first, event)]
        if later:
            return signals[first.path], signals[later[-1].path]
    return None


RULE = Rule("NS504", "gradient-scale", "warning", check, __doc__, needs=("graph", "batches", "training"))
