"""Padding is a large part of what a batch norm takes its mean and variance from.

What: which positions of a batch are padding is read from the input: zeros (or the padding index of the embedding) that
    fill up samples of different lengths at one end, in sequences and images; or a mask of 0 and 1 that comes with them.
    A norm that gets a value for each position also averages the padded ones, unless it has a mask or the network leaves
    them out before it. A norm after pooling over the positions is left alone.

Formula: padded share p = padded positions / all positions that reach the norm, the mean over the batches.

Why it hurts: padded values are all alike, and pull mean and variance towards themselves by a share that differs from
    batch to batch, so a sample is normalised differently when the other samples are longer or shorter. Evaluation,
    often with one sample and no padding, normalises it by an average over padding: the network is good in training and
    bad in evaluation, most with one sample per batch.

Threshold: p > 0.1, our own choice. A share p of constant values, at a distance of d from the mean of the others, moves
    the mean by p·d and makes the variance (1 − p)·(σ² + p·d²): at p = 0.1 the standard deviation is 5 % too small for
    d = 0, and the mean is off by 0.1 σ for d = σ.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1, bias=False), nn.BatchNorm1d(8), nn.ReLU())
    lengths = torch.randint(5, 20, (8, 32, 1))
    lengths[:, 0] = 20
    valid = torch.arange(20) < lengths
    batches = [torch.randn(32, 4, 20) * mask[:, None] for mask in valid]
    findings = normsmith.check(model, batches, select=["NS407"])
    assert findings.codes == ("NS407",)
    whole = [torch.randn(32, 4, 20) for _ in range(8)]
    assert normsmith.check(model, whole, select=["NS407"]).passed()

Fix: `model = normsmith.surgery.convert(model, "batch").apply()`, whose norms take a mask, and around each forward

        with normsmith.use_mask(model, valid[0]):  # the mask of this batch
            y = model(batches[0])

    The mask is a bool tensor of shape (samples, positions), True where a position holds data and False where it is
    padding. torch's `key_padding_mask` is the opposite: pass `~key_padding_mask`. Or make batches of samples that are
    equally long.

Threads: pytorch/pytorch#70529, pytorch/pytorch#25910, SeanNaren/deepspeech.pytorch#312,
    Tomiinek/Multilingual_Text_to_Speech#81, cooijmanstim/recurrent-batch-normalization#2,
    tensorflow/tensorflow#30161.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._text import number
from normsmith._torch import leaves_of
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule

SHARE = 0.1
_ONE_SIDED = 4
"""Padding is at one end: so many times as much there as at the other, where the background of an image is at both."""
_FIX = Fix(
    'model = normsmith.surgery.convert(model, "batch").apply()  # once, and around each forward '
    "with normsmith.use_mask(model, mask): ..., mask True where data are"
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm that takes too much padding in."""
    if not context.norms:
        return
    paddings = {m.padding_idx for m in context.network.modules() if isinstance(m, nn.Embedding)}
    tokens = {0 if index is None else index for index in paddings}
    padded = [_padding(batch, tokens) for batch in context.measured]
    if all(mask is None or not mask.any() for mask in padded):
        return
    for norm in context.norms:
        shares = [] if norm.is_frozen else _shares(context, norm, padded)
        if shares and (share := fmean(shares)) > SHARE:
            yield Finding(
                norm.path,
                f"{number(100 * share, 2)} % of what its statistics are taken from is padding",
                "samples of different lengths, filled up to the longest of their batch",
                _FIX,
                quantity="padded share",
                measured=share,
                threshold=SHARE,
                batches=len(shares),
                also=norm.also,
            )


def _shares(context: Context, norm: Norm, padded: list[Tensor | None]) -> list[float]:
    """The padded share of each call; none where the norm gets no value for each position, or leaves padding out."""
    shares: list[float] = []
    for call in context.calls_of(norm):
        mask = padded[call.batch]
        if mask is None:
            shares.append(0.0)
            continue
        valid = float((~mask).sum())
        for_each = call.count / len(mask)
        if for_each <= 1 or for_each != int(for_each) or (call.count == valid and mask.any()):
            return []
        shares.append(float(mask.double().mean()))
    return shares


def _padding(batch: Any, tokens: set[int]) -> Tensor | None:
    """Which positions of each sample are padding, (samples, positions); None where a batch has no positions."""
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    leaves = [
        leaf for leaf in leaves_of(inputs) if isinstance(leaf, Tensor) and leaf.ndim > 1 and leaf.numel()
    ]
    masks = [mask for leaf in leaves if (mask := _as_mask(leaf)) is not None]
    if masks:
        return masks[0]
    for leaf in leaves:
        if leaf.ndim > 2:
            return _filled(leaf == 0)
        if tokens and not leaf.is_floating_point():
            empty = torch.zeros_like(leaf, dtype=torch.bool)
            for token in tokens:
                empty |= leaf == token
            return _at_one_end(empty)
    return None


def _as_mask(leaf: Tensor) -> Tensor | None:
    """A tensor of 0 and 1, (samples, positions), whose rows change once at most, as the padded positions."""
    if leaf.ndim != 2 or leaf.is_floating_point() or not bool(((leaf == 0) | (leaf == 1)).all()):
        return None
    ones = leaf.bool()
    changes = ones[:, 1:] != ones[:, :-1]
    if ones.all() or not bool((changes.sum(1) <= 1).all()):
        return None
    # every row has something valid, and the longest has no padding: a column of one value tells which it is
    column = ones[:, 0] if bool((ones[:, 0] == ones[0, 0]).all()) else ones[:, -1]
    return ~ones if bool(column[0]) else ones


def _filled(zeros: Tensor) -> Tensor | None:
    """The padding of samples with several dimensions: whole slices of zeros at the end of one or more of them."""
    every = tuple(range(1, zeros.ndim))
    found: Tensor | None = None
    # of images the channels are no positions; of sequences they may come first or last
    for dim in every[1:] if zeros.ndim > 3 else every:
        others = tuple(other for other in every if other != dim)
        slices = _at_one_end((~zeros).sum(others) == 0)
        if zeros.ndim == 3:
            found = slices if found is None or slices.sum() > found.sum() else found
        else:
            shape = [len(zeros), *(zeros.shape[d] if d == dim else 1 for d in every[1:])]
            spread = slices.reshape(shape).expand(len(zeros), *zeros.shape[2:])
            found = spread if found is None else found | spread
    return None if found is None else found.flatten(1)


def _at_one_end(empty: Tensor) -> Tensor:
    """The runs at the end of the rows, or at their begin; nothing where they are at both, or equally long."""
    last = empty.flip(1).long().cumprod(1).flip(1).bool()
    first = empty.long().cumprod(1).bool()
    for run, other in ((last, first), (first, last)):
        lengths = run.sum(1)
        if lengths.sum() >= _ONE_SIDED * other.sum() and lengths.max() > lengths.min():
            return run
    return torch.zeros_like(empty)


RULE = Rule("NS407", "padding-in-statistics", "warning", check, __doc__, needs=("batches",))
