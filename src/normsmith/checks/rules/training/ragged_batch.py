"""The last batch is so small that training fails on it, or that running statistics follow it.

What: the samples that a loader leaves for its last batch; or those that a batch leaves for its last ghost batch (a part
    of the batch that is normalised by itself, the `ghost_batch_size` of normsmith's layers).
    - Error: one value per channel, as training refuses it.
    - Warning: a single sample that has several positions (pixels or steps).
    - Warning: less than a quarter of the usual batch, and also fewer than 16 (independent) values per channel. Values
      of one sequence or image resemble each other; how much the means of batches vary tells how many independent ones
      they are worth.
    A loader that drops its last batch is fine, and so is one without shuffling for a network in evaluation mode.

Formula: let σ² be the variance of the samples and m the momentum. The running mean of batches of N samples has the
    variance m/(2 − m)·σ²/N; a last batch of L samples alone adds m²·σ²/L. At m = 0.1 that is as much as all the others
    together where L = 0.19·N, and more where L is smaller.

Why it hurts: training stops in the last step of the first epoch ("Expected more than 1 value per channel when
    training"); or each evaluation, which comes right after the last batch, uses statistics that a few samples have
    moved by a tenth of the way.

Threshold: a quarter of the batch, our own choice by the formula; 16 values as in NS301.

Reproduction:
    import normsmith, torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    data = TensorDataset(torch.randn(65, 4), torch.randint(2, (65,)))
    findings = normsmith.check(model, DataLoader(data, 32, shuffle=True), select=["NS302"])
    assert findings.codes == ("NS302",)
    good = DataLoader(data, 32, shuffle=True, drop_last=True)
    assert normsmith.check(model, good, select=["NS302"]).passed()

Fix: `DataLoader(..., drop_last=True)` for training. Or normsmith's layers, which then use the running statistics for a
    batch of one value: `model = normsmith.surgery.convert(model, "batch", on_small_batch="running").apply()`. For ghost
    batches choose a `ghost_batch_size` that divides the batch size.

Threads: scverse/scvi-tools#2314, fastai/fastai#1352, yassouali/CCT#34, erdongsanshi/Fuss-Free-structure#1,
    yassouali/pytorch-segmentation#8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from normsmith._text import count, number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.checks.shift import noise_of
from normsmith.layers.statistics import StatisticsBase

FEW = 16
_SHARE = 0.25


def check(context: Context) -> Iterator[Finding]:
    """A finding for the loader, at the norm that gets fewest values, and one for each norm with such a ghost batch."""
    per_sample = {norm: values / context.rows for norm in context.norms if (values := _values(context, norm))}
    if not per_sample:
        return
    for norm, positions in per_sample.items():
        ghost: int = getattr(norm.module, "ghost_batch_size", None) or context.rows
        rest = context.rows % ghost if ghost < context.rows else 0
        left = rest * positions
        if rest and round(left) > 1 and _is_ragged(rest, ghost, min(left, _worth(context, norm, rest))):
            yield _finding(norm, f"ghost batches of {ghost} leave {rest} of {context.rows}", left, _GHOST)
    yield from _of_loader(context, per_sample)


def _of_loader(context: Context, per_sample: dict[Norm, float]) -> Iterator[Finding]:
    sizes = context.sizes
    in_order = sizes.shuffled is False and not context.model.training
    if in_order or sizes.last >= sizes.usual:
        return
    norm = min(per_sample, key=lambda norm: per_sample[norm])
    values = round(sizes.last * per_sample[norm])
    few = f"the last batch has {count(sizes.last, 'sample')} of {sizes.usual}, "
    if _is_ragged(sizes.last, sizes.usual, values):
        yield _finding(norm, f"{few}{count(values, 'value')} per channel", values, _LAST)
    elif sizes.last < _SHARE * sizes.usual:
        worths = {norm: _worth(context, norm, sizes.last) for norm in per_sample}
        norm = min(worths, key=lambda norm: worths[norm])
        if (worth := worths[norm]) < FEW:
            message = f"{few}whose values per channel are worth {number(worth, 2)} independent ones"
            yield _finding(norm, message, worth, _LAST)


def _values(context: Context, norm: Norm) -> int | None:
    module = norm.module
    spared = isinstance(module, StatisticsBase) and module.on_small_batch == "running"
    return None if norm.is_frozen or spared else context.values_per_channel(norm)


def _worth(context: Context, norm: Norm, samples: int) -> float:
    """How many independent values some samples are worth to a norm, by how much the means of full batches vary."""
    calls = [call for call in context.calls_of(norm) if call.number == 0]
    full = [call for call in calls if call.count == max(call.count for call in calls)]
    try:
        return samples / context.rows * noise_of(full, norm.epsilon).values
    except UnavailableError:
        return math.inf  # too few batches to tell


def _is_ragged(last: int, usual: int, values: float) -> bool:
    return last == 1 or values < 2 or (last < _SHARE * usual and values < FEW)


_LAST = Fix("DataLoader(..., drop_last=True)")
_GHOST = Fix("a ghost_batch_size that divides the batch size")


def _finding(norm: Norm, message: str, values: float, fix: Fix) -> Finding:
    return Finding(
        norm.path,
        message,
        "the samples are no multiple of the batch, and the rest is not dropped",
        fix,
        quantity="values per channel",
        measured=values,
        threshold=2 if values < 2 else FEW,
        also=norm.also,
        severity="error" if values < 2 else "",
    )


RULE = Rule("NS302", "ragged-batch", "warning", check, __doc__, needs=("graph", "batches"), varies=("error",))
