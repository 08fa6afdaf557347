"""The momentum of a batch norm is 0 or 1: its running statistics never move, or are always the last batch's.

What: a momentum of 1 in a batch norm that updates its running statistics; or a momentum of 0 where these are still mean
    0 and variance 1, as in a new layer; or a momentum of 0 where the statistics no longer match your batches, for
    example because someone set it to 0 and forgot to set it back. People also use a momentum of 0 to keep statistics
    that were loaded or measured; as long as these match the data, that is left alone.

Formula: running ← (1 − momentum)·running + momentum·batch.

Why it hurts: with 0, evaluation goes by 0 and 1, or by what the network once was, for ever, while training still
    normalises by the batch: a momentum of 0 freezes no norm. With 1, evaluation normalises by the statistics of
    whatever batch came last.

Threshold: exactly 0 and exactly 1; from 0.5 to 1 NS201 reports it. Statistics no longer match your batches where means
    are 0.1 σ or variances a fifth apart, beyond sampling error, in a tenth of the channels, as in NS404. It is reported
    even if it costs nothing yet, as the statistics will never update.

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
from contextlib import suppress
from functools import partial
from typing import Any

from torch import nn

from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.moments import LayerMoments, moments_of_calls
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.checks.staleness import shift_from
from normsmith.measure import measurable_layers
from normsmith.surgery import set_momentum

_USUAL = 0.1


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm whose momentum is one of the two ends."""
    norms = [
        norm for norm in context.norms if norm.momentum in (0, 1) and norm.updates and not norm.is_frozen
    ]
    measured = _measured(context, [norm for norm in norms if norm.momentum == 0 and not norm.is_at_start])
    for norm in norms:
        what = "are always those of the last batch" if norm.momentum == 1 else _still(norm, measured)
        if what is None:
            continue
        yield Finding(
            norm.path,
            f"momentum is {norm.momentum:g}: the running statistics {what}",
            "momentum taken for the weight of the old statistics, or a freeze that freezes no training"
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


def _still(norm: Norm, measured: dict[nn.Module, LayerMoments]) -> str | None:
    """What is wrong with statistics that never move; None where they may be meant to stay."""
    if norm.is_at_start:
        return "never move from 0 and 1"
    with suppress(UnavailableError):  # few batches tell a shift from noise as little as none
        away = shift_from(norm, measured[norm.module]) if norm.module in measured else None
        if away is not None and away.counts:
            return f"never move, and are off {away.text}"
    return None


def _measured(context: Context, norms: list[Norm]) -> dict[nn.Module, LayerMoments]:
    """What reaches these norms, whose statistics stand still; nothing where that cannot be measured."""
    if not norms or context.data is None or not context.looks_at_data:
        return {}
    modules: list[Any] = [norm.module for norm in norms]
    held = [module.momentum for module in modules]
    try:
        for module in modules:
            module.momentum = _USUAL  # layers that hold their statistics are not measured
        layers = (layer for layer in measurable_layers(context.network).layers if layer.layer in modules)
        return moments_of_calls(context.network, tuple(layers), context.measured, context.output)
    except UnavailableError:
        return {}
    finally:
        for module, momentum in zip(modules, held, strict=True):
            module.momentum = momentum


RULE = Rule("NS209", "frozen-momentum", "warning", check, __doc__)
