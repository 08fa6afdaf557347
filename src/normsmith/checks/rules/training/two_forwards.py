"""A norm sees two forwards in training mode before one step: on two kinds of data, or under DDP, where backward fails.

What: your `training_step` is run on a copy. Under `DistributedDataParallel` (DDP), which broadcasts the buffers of
    batch norms, two forwards before a backward are an error. Otherwise two forwards that give one loss, as of real and
    generated samples or of two views, are information, and a warning where the norm's inputs in them have very
    different statistics. Two forwards with separate backwards are treated like two forwards with one loss, if the norm
    gets 16 values per channel or more in each and its inputs in them have very different statistics. Micro-batches
    (NS303), extra forwards on the same samples (NS304) and several calls in one forward (NS106) are reported there.

Formula: forward k is normalised by its own batch's mean and standard deviation (μ_k, σ_k), and evaluation by one
    average of them. Very different means |μ_2 − μ_1| / σ_1 > 0.5, or a factor above 2 between the variances, beyond
    sampling error, in a tenth of the channels.

Why it hurts: running statistics are those of a mixture that neither kind of data has. Under DDP every forward
    overwrites the buffers with those of rank 0. The backward of the first forward still needs the old ones, so torch
    raises "modified by an inplace operation".

Threshold: two forwards. For the warning, half a standard deviation or twice the variance, our own choice: the common
    average is then off by a quarter of σ for both kinds.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.LeakyReLU(), nn.Linear(8, 1))
    batches = [torch.randn(32, 4) for _ in range(8)]

    def step(model, batches, optimizer):  # a discriminator
        real, fake = next(batches), 3 + torch.randn(32, 4)
        optimizer.zero_grad()
        (model(fake).relu().mean() - model(real).mean()).backward()
        optimizer.step()

    findings = normsmith.check(model, batches, training_step=step, level="deep", select=["NS310"])
    assert [finding.severity for finding in findings] == ["warning"]

Fix: a norm for each kind of data, as of adversarial networks, whose recipes keep real and generated samples in batches
    of their own. Or, where both may share statistics, one forward of both:

        x_real, x_fake = batches[0], 3 + torch.randn(32, 4)
        real, fake = model(torch.cat([x_real, x_fake])).chunk(2)

    Under DDP one forward, or `model = nn.SyncBatchNorm.convert_sync_batchnorm(model)`, or
    `DistributedDataParallel(..., broadcast_buffers=False)`. Torch 2.13 calls that setting `forward_sync_buffers=False`,
    in place of the old name; it still sends the buffers once, at the start.

Threads: pytorch/pytorch#175024 (real and fake), pytorch/pytorch#22095, pytorch/pytorch#66504, pytorch/pytorch#65907,
    pytorch/pytorch#110363.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normsmith._text import number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.checks.shift import CHANNELS, noise_of, shift
from normsmith.checks.watcher import NormCall, Record

MEAN, LOG_VARIANCE = 0.5, 0.69
FEW = 16
_ONE = Fix(
    "a norm for each kind of data; or, where they may share statistics, one forward of both, "
    "model(torch.cat([a, b]))"
)
_DDP = Fix(
    "one forward before the backward, nn.SyncBatchNorm, or DDP with "
    " broadcast_buffers=False (torch 2.13: forward_sync_buffers=False)"
)
Pair = tuple[NormCall, NormCall]


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm that two forwards feed."""
    steps = context.own_steps
    wrapper = context.model
    broadcasts = isinstance(wrapper, DistributedDataParallel) and wrapper.broadcast_buffers
    for norm in context.norms:
        together = [pair for record in steps if (pair := _pair(norm, record, one_backward=True)) is not None]
        pairs = together or [pair for record in steps if (pair := _pair(norm, record)) is not None]
        if not pairs or norm.is_frozen:
            continue
        away = _apart(context, norm, pairs)
        small = min(call.values for pair in pairs for call in pair) < FEW  # too few to tell kinds of data
        if not together and (small or away < CHANNELS):
            continue  # micro-batches
        fails = bool(together) and broadcasts and not isinstance(norm.module, nn.SyncBatchNorm)
        differ = (
            f"; statistics of its inputs differ in {number(100 * away, 2)} % of its channels" if away else ""
        )
        yield Finding(
            norm.path,
            f"two forwards in training mode feed it in a training step{differ}",
            "DDP broadcasts the buffers before each forward"
            if fails
            else "two kinds of data, or two views, one by one",
            _DDP if fails else _ONE,
            quantity="share of channels",
            measured=away,
            threshold=CHANNELS,
            batches=2 * len(pairs),
            also=norm.also,
            severity="error" if fails else "warning" if away >= CHANNELS else "info",
        )


def _pair(norm: Norm, record: Record, *, one_backward: bool = False) -> Pair | None:
    """The first and the last call of a norm in a step, if they are of two forwards that gradients come from.

    With `one_backward` both forwards are before the same backward; otherwise their inputs are not the same.
    """
    groups: dict[int, list[NormCall]] = {}
    for call in record.calls_of(norm.path):
        if (
            call.training
            and call.moved
            and call.forward is not None
            and record.forwards[call.forward].reached
        ):
            group = record.before(call.forward, "backward") if one_backward else 0
            groups.setdefault(group, []).append(call)
    for calls in groups.values():
        numbers = {call.forward for call in calls if call.forward is not None}
        inputs = {record.forwards[number].inputs for number in numbers}
        if len(numbers) > 1 and (one_backward or len(inputs) > 1):
            return calls[0], calls[-1]
    return None


def _apart(context: Context, norm: Norm, pairs: list[Pair]) -> float:
    """In which share of the channels the inputs differ far beyond noise; 0 where noise cannot be told."""
    with suppress(UnavailableError):
        noise = noise_of(context.calls_of(norm), norm.epsilon)
        first, last = (_average([pair[which] for pair in pairs]) for which in (0, 1))
        away = shift(last, first, norm.epsilon, noise, 2 / len(pairs))
        far = (away.mean > MEAN) | (away.log_variance > LOG_VARIANCE)
        return float((away.beyond & far).double().mean())
    return 0.0


def _average(calls: list[NormCall]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([call.mean for call in calls]).mean(0), torch.stack([call.var for call in calls]).mean(
        0
    )


RULE = Rule(
    "NS310",
    "two-forwards",
    "warning",
    check,
    __doc__,
    needs=("batches", "training"),
    varies=("error", "info"),
)
