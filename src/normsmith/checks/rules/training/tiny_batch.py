"""A batch norm has so few values per channel in training that their mean and variance are mostly noise.

What: values per channel in training: the samples of a batch times the positions of each (pixels or steps), on one
    device. Fewer than 16 are a warning, fewer than 2 an error, as training refuses them. For batches of at most 4
    samples the check also measures how many independent values the positions are worth: those of one image resemble
    each other, and 1,000 of them may tell no more than 5 independent values. Batch renorm, group norm, and frozen and
    synchronised norms are left alone.

Formula: n independent values give the standard deviation σ with a relative error of about 1 / sqrt(2·(n − 1)). The
    check estimates n so: the variance σ² of single values, divided by the variance between the means of batches.

Why it hurts: each sample is normalised by numbers that depend on the few others. Training has to live with that noise,
    and evaluation does not see it, as running averages are close to the truth: the network is good in training and bad
    in evaluation, even with shuffled batches and up-to-date statistics, and its losses are noisy.

Threshold: 16 values, where σ is off by 18 %: our own choice. Published curves get worse below about 16 images (Wu and
    He 2018, Group Normalization). A batch of 2 large images is left alone unless its positions prove to be worth fewer
    than 8 values.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    batches = [torch.randn(4, 4) for _ in range(8)]
    findings = normsmith.check(model, batches, select=["NS301"])
    assert findings.codes == ("NS301",)
    model = findings.fix(model)
    assert normsmith.check(model, batches, select=["NS301"]).passed()
    assert normsmith.check(model, [torch.randn(64, 4)], select=["NS301"]).passed()

Fix: larger batches where memory allows. Else
    `model = normsmith.surgery.convert(model, "renorm", schedule="constant").apply()`: batch renorm normalises by the
    batch, then corrects the result towards the running statistics, within bounds (with the schedule `"constant"` the
    bounds are the same from the first step on). On several devices
    `model = normsmith.surgery.convert(model, "sync").apply()`, which takes the statistics of all of them, or `"group"`
    for group norm, which needs no batch. Then train on; after `"group"` start the training again.

Threads: CAREamics/careamics#488, google/automl#881, carrierlxk/COSNet#10, xuebinqin/BASNet#42,
    open-mmlab/mmsegmentation#272 (one value: an error), dbolya/yolact#325.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import distributed as dist
from torch import nn

from normsmith._text import count, number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, Severity, UnavailableError
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.checks.shift import noise_of
from normsmith.layers.batch_renorm import RenormBase
from normsmith.surgery import convert

FEW = 16
_SAMPLES = 4
"""Batches of more samples than these are not asked what their positions are worth."""
_WORTH = FEW / 2
"""What positions are worth is an estimate: it has to be well below."""


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm with too few values."""
    for norm in context.norms:
        values = _values(context, norm)
        if values is None:
            continue
        if values < 2:
            yield _finding(
                context, norm, f"{count(values, 'value')} per channel: training refuses it", values, "error"
            )
        elif values < FEW:
            error = number(100 / (2 * (values - 1)) ** 0.5, 2)
            yield _finding(context, norm, f"{values} values per channel: σ is off by some {error} %", values)
        elif context.rows <= _SAMPLES and (worth := _worth(context, norm)) < _WORTH:
            yield _finding(
                context,
                norm,
                f"{values} values per channel, which vary from batch to batch as {number(worth, 2)} would",
                worth,
            )


def _values(context: Context, norm: Norm) -> int | None:
    """Values per channel by which a norm normalises in training; None where it is not meant, or nothing is known."""
    if norm.is_frozen or isinstance(norm.module, RenormBase):
        return None
    values = context.values_per_channel(norm)
    if values is None:
        return None
    ghost = getattr(norm.module, "ghost_batch_size", None)
    if ghost is not None and ghost < context.rows:
        values = values * ghost // context.rows
    if isinstance(norm.module, nn.SyncBatchNorm) or getattr(norm.module, "process_group", None) is not None:
        if not (dist.is_available() and dist.is_initialized()):
            return None  # how many devices share it is not known here
        values *= dist.get_world_size()
    return values


def _worth(context: Context, norm: Norm) -> float:
    """How many independent values the batches of a norm are worth, by their variance; infinite where it is unknown."""
    try:
        return noise_of(context.calls_of(norm), norm.epsilon).values
    except UnavailableError:
        return float("inf")


def _finding(
    context: Context, norm: Norm, message: str, measured: float, severity: Severity = "warning"
) -> Finding:
    renorm = Fix(
        'model = normsmith.surgery.convert(model, "renorm", schedule="constant").apply()',
        plan=partial(convert, to="renorm", schedule="constant"),
        keeps_outputs=True,
    )
    return Finding(
        norm.path,
        message,
        f"batches of {count(context.rows, 'sample')}",
        Fix('larger batches, or model = normsmith.surgery.convert(model, "group").apply()')
        if severity == "error"
        else renorm,
        quantity="values per channel",
        measured=measured,
        threshold=2 if severity == "error" else FEW,
        batches=1,
        also=norm.also,
        severity=severity,
    )


RULE = Rule("NS301", "tiny-batch", "warning", check, __doc__, needs=("graph", "batches"), varies=("error",))
