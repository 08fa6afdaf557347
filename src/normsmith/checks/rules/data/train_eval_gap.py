"""The network is worse in evaluation than in training on the very same batches, and its batch norms are the reason.

What: a part of your batches goes through the network in evaluation mode twice: with the running statistics, and
    normalised by their own statistics, as in training; dropout is off both times. The other part serves to measure
    statistics anew. Level deep also splits the larger gap that includes dropout: first dropout is turned off, then one
    norm after the other is switched from batch statistics to running statistics. The changes of the loss in these steps
    add up to the larger gap.

Formula: gap = L(running statistics) − L(batch statistics), where L is the loss (or metric) of a batch, averaged over
    the batches. The step of norm k is L(norms 1 … k by running statistics) − L(norms 1 … k − 1 by running statistics).
    The report also shows each norm alone and the steps in reverse order; these need not add up, since each norm works
    on what the layers before it put out.

Why it hurts: what was trained is not what is used. There are two kinds of causes. The running statistics are not those
    of the data: stale, never updated, or measured with dropout before a norm. Or the batch tells something that a
    single sample cannot (batches are too small, or sorted), and no running statistics can make up for that. The finding
    says which: it tries statistics measured anew. If NS404 or NS202 is reported too, mend that first.

Threshold: a loss that is worse by 0.05, or a metric by 0.01 (one percentage point), each beyond its noise between
    batches (a t interval): our own choice. A loss on a smaller scale counts if it is worse by at least 50 %
    (TheDeepChecker's limit) and the outputs also move by half of their spread: healthy networks have small losses such
    as 0.0034 in evaluation against 0.0008 in training.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=1e-4), nn.ReLU(), nn.Linear(8, 2))
    batches = [(x + 3, (x[:, 0] > 0).long()) for x in torch.randn(16, 64, 4)]
    optimizer, loss = torch.optim.Adam(model.parameters(), lr=0.01), nn.functional.cross_entropy
    for x, y in 10 * batches:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    findings = normsmith.check(model, batches, loss=loss, level="deep", select=["NS403"])
    assert findings.codes == ("NS403",)
    assert findings[0].evidence["steps"][0]["layers"] == ["1"]
    model = findings.fix(model)
    assert normsmith.check(model, batches, loss=loss, select=["NS403"]).passed()

Fix: where statistics measured anew close most of the gap,
    `model = normsmith.surgery.recalibrate(model, batches).apply()`. Otherwise larger or shuffled batches, or
    `model = normsmith.surgery.convert(model, "renorm", schedule="constant").apply()` and further training: batch renorm
    normalises by the batch, then corrects the result towards the running statistics, within bounds (with the schedule
    `"constant"` the bounds are the same from the first step on).

Threads: pytorch/pytorch#4741, pytorch/pytorch#5406, yanx27/GACNet#8, keras-team/keras#6977, keras-team/keras#7265.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from normsmith._text import number, signed, some
from normsmith.checks.comparison import LOSS, Comparison, normalising_by_batches
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.gap import Gap, gap_of
from normsmith.checks.rule import Rule
from normsmith.measure import MeasuredLayer

_MOVED = 0.5
_MOST_OF_IT = 0.8


def check(context: Context) -> Iterator[Finding]:
    """A finding for the network, with the parts of the gap at level deep."""
    if not context.norms or not context.layers:
        return
    if context.loss is None and context.metric is None:
        raise UnavailableError("give loss=... or metric=...")
    if all(norm.is_at_start and not norm.has_trained for norm in context.norms if norm.updates):
        raise UnavailableError("no batch has moved the running statistics yet")
    layers = context.layers
    comparison = context.compare_with(lambda: normalising_by_batches(layers))
    if not (comparison.losses or comparison.metrics):
        raise UnavailableError("the batches have no targets")
    cost = comparison.cost_where(_MOVED)
    if cost is None:
        return
    gap = _parts(context, layers) if context.looks_at_training else None
    closed = _closed_by_measuring(context, comparison)
    stale = closed >= _MOST_OF_IT
    yield Finding(
        "",
        f"worse in evaluation than with the statistics of the same batches: {cost}{_where(gap)}",
        f"statistics measured anew close {number(100 * min(max(closed, 0.0), 1.0), 2)} % of it: "
        + (
            "the running statistics are not the data's"
            if stale
            else "batches are too small, sorted, or mixed"
        ),
        context.recalibration() if stale else _BATCHES,
        quantity="loss" if comparison.losses else "metric",
        measured=abs(_mean_gap(comparison)),
        threshold=LOSS if comparison.losses else context.point,
        batches=comparison.batches,
        evidence={} if gap is None else gap.to_dict(),
    )


_BATCHES = Fix(
    'larger or shuffled batches, or model = normsmith.surgery.convert(model, "renorm", schedule="constant").apply()'
)


def _where(gap: Gap | None) -> str:
    if gap is None:
        return "; level deep says in which layers"
    paths, added = gap.worst
    what, values = ("loss", added.loss) if added.loss else ("metric", added.metric)
    return f"; most comes from {some(paths, 3)}: {what} {signed(fmean(values))}"


def _mean_gap(comparison: Comparison) -> float:
    pairs = comparison.losses or comparison.metrics
    return fmean(now - then for now, then in pairs)


def _parts(context: Context, layers: Sequence[MeasuredLayer]) -> Gap:
    return gap_of(context.network, context.held_back, context.forward, layers, context.judge)


def _closed_by_measuring(context: Context, gap: Comparison) -> float:
    """The share of the gap that is gone once the layers hold the statistics of the measured batches."""
    measured = {
        module: moments.statistics
        for module, moments in context.moments_without_dropout.items()
        if sum(call.count for call in moments.calls) > 1
    }
    whole = _mean_gap(gap)
    return _mean_gap(context.compare(measured)) / whole if whole else 0.0


RULE = Rule("NS403", "train-eval-gap", "error", check, __doc__, needs=("batches",))
