"""The samples of a batch resemble each other more than samples drawn at random do: batches are sorted or grouped.

What: for each sample the mean and the mean square of each channel are taken at the inputs of all batch norms, in
    evaluation mode, where a sample is not influenced by its batch. Their means over batches are compared with those of
    the same samples in batches drawn at random. The whole network gets one test.

Formula: T = Σ_b n_b·|mean_b|², where mean_b is the mean of these numbers, standardised, over the n_b samples of batch
    b. The p-value is the share of 1,199 permutations of the samples whose T is at least as large. The size of the
    effect is the intraclass correlation: how much of the variance lies between batches, minus what random batches show;
    over all channels, and per channel with a margin of 2.58 standard errors.

Why it hurts: training normalises each batch by itself. So what its samples have in common (class, camera, time) is
    subtracted, and the batch may become a clue to the answer. Evaluation, by one average, sees other inputs: the
    network is good in training and bad in evaluation, but only with sorted or grouped loaders. And the running
    statistics follow the last few batches.

Threshold: p < 0.001 (one test, so that many layers raise no false alarm) and an intraclass correlation of 0.02, where
    batch means vary by 0.14 standard deviations beyond chance, over all channels or in a tenth of them (a slow drift
    often shows in few channels only): our own choice, near the 0.1 of NS404. Batches that differ less than by chance,
    as stratified ones do, are fine.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    labels = torch.randint(4, (512,))
    x = torch.randn(512, 4) + 2 * nn.functional.one_hot(labels, 4)
    by_class = x[labels.argsort()]
    assert normsmith.check(model, by_class.split(32), select=["NS406"]).codes == ("NS406",)
    assert normsmith.check(model, x.split(32), select=["NS406"]).passed()

Fix: `DataLoader(..., shuffle=True)`, or a shuffle before batches are formed (a stream needs a large buffer); then train
    again. Where batches have to be grouped,
    `model = normsmith.surgery.convert(model, "renorm", schedule="constant").apply()`: batch renorm normalises by the
    batch, then corrects the result towards the running statistics, within bounds (with the schedule `"constant"` the
    bounds are the same from the first step on).

Threads: openpifpaf/openpifpaf#308, vlfeat/matconvnet#393, happynear/NormFace#4,
    xuyxu/Deep-Clustering-Network#2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from normsmith._text import number, p_value
from normsmith.checks.batches import rows
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.per_sample import most_samples, products
from normsmith.checks.rule import Rule
from normsmith.checks.shift import CHANNELS

P = 1e-3
CORRELATION = 0.02
_CERTAIN = 2.58
_PERMUTATIONS = 1199
_FEWEST = 4
_FIX = Fix(
    'DataLoader(..., shuffle=True), or model = normsmith.surgery.convert(model, "renorm", schedule="constant").apply()'
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for the data, if batches are not drawn at random."""
    modules = [norm.module for norm in context.norms if not norm.is_frozen]
    if not modules:
        return
    if len(context.batches) < _FEWEST:
        raise UnavailableError(f"expected at least {_FEWEST} batches, got {len(context.batches)}")
    numbers = [number_ for number_, batch in enumerate(context.batches) if rows(batch) > 1]
    if len(numbers) < _FEWEST:
        raise UnavailableError("batches of one sample tell nothing of each other")
    tables = [context.evaluations.samples(number_) for number_ in numbers]
    resemblance = products(tables)
    most = most_samples(len(context.batches))
    sizes = [min(rows(context.batches[number_]), most) for number_ in numbers]
    share = share_of_grouped(tables)
    p, correlation = against_permutations(resemblance, sizes, 0.0 if share >= CHANNELS else CORRELATION)
    if p < P:
        yield Finding(
            "",
            f"samples of a batch resemble each other: {number(100 * correlation, 2)} % of their variance lies between "
            f"batches, beyond chance ({p_value(p)}), and more than {number(100 * CORRELATION)} % in "
            f"{number(100 * share, 2)} % of the channels",
            "data sorted or grouped, by class, source or time, and not shuffled",
            _FIX,
            quantity="intraclass correlation",
            measured=correlation,
            threshold=CORRELATION,
            batches=len(sizes),
            evidence={"batches": _drift(resemblance, sizes)},
        )


def _drift(products: Tensor, sizes: list[int]) -> dict[str, Any]:
    """The mean of each batch along the direction in which batches differ most, as plain data for a picture."""
    averages = _membership(sizes).T / torch.tensor(sizes)[:, None]
    squares, directions = torch.linalg.eigh(averages @ products @ averages.T)
    length, direction = squares[-1].clamp(min=1e-24).sqrt(), directions[:, -1]
    deviation = float((products @ averages.T @ direction / length).std().clamp(min=1e-12))
    return {
        "values": [float(value) / deviation for value in length * direction],
        "errors": [size**-0.5 for size in sizes],
    }


def share_of_grouped(batches: Sequence[Sequence[Tensor | None]]) -> float:
    """In which share of the columns more variance lies between batches than is allowed and sampling explains.

    `batches` has for each batch the tables (samples, columns) of the norms.
    """
    shares: list[Tensor] = []
    for tables in zip(*batches, strict=True):
        known = [table.double() for table in tables if table is not None and len(table) > 1]
        if len(known) < _FEWEST:
            continue
        size = sum(map(len, known)) / len(known)
        between = size * torch.stack([table.mean(0) for table in known]).var(0)
        within = torch.stack([table.var(0) for table in known]).mean(0)
        correlation = (between - within) / (between + (size - 1) * within)
        error = _CERTAIN * (2 / (len(known) - 1)) ** 0.5 / size
        shares.append(
            (correlation > CORRELATION + error).double()
        )  # a constant column is not a number, and not beyond
    return float(torch.cat(shares).mean()) if shares else 0.0


def against_permutations(
    products: Tensor, sizes: list[int], least: float = CORRELATION
) -> tuple[float, float]:
    """The p of batches drawn at random, and the share of the variance that lies between them beyond chance.

    `products` are those of each two samples, batch after batch, whose mean is 0. The p is 1 where the share is less
    than `least`, too small to matter, and where it is not below `P`.

    >>> draw = torch.Generator().manual_seed(0)
    >>> samples = torch.cat([torch.randn(16, 3, generator=draw) + 3 * b for b in range(4)]).double()
    >>> samples -= samples.mean(0)
    >>> p, correlation = against_permutations(samples @ samples.T, [16] * 4)
    >>> p < 0.001, correlation > 0.5
    (True, True)
    """
    membership = _membership(sizes)
    first, second = (
        (membership @ membership.T).triu(1).nonzero(as_tuple=True)
    )  # each two samples of the same batch
    share = membership @ (1 / torch.tensor(sizes).double())
    pairs, squares = 2 * share[first], products.diagonal()

    def between(order: Tensor) -> float:
        return float(products[order[first], order[second]] @ pairs + squares[order] @ share)

    samples, batches, total = len(products), len(sizes), float(products.trace())
    observed = between(torch.arange(samples))
    expected = total * (batches - 1) / (samples - 1)
    # a share r of variance between batches of n adds r·(1 − 1/batches)·(1 − 1/n) to the share of B
    correlation = (observed - expected) / (total * (1 - 1 / batches) * (1 - batches / samples))
    if correlation < least:
        return 1.0, correlation
    draw = torch.Generator().manual_seed(0)
    larger = 0
    for _ in range(_PERMUTATIONS):
        larger += between(torch.randperm(samples, generator=draw)) >= observed
        if (1 + larger) / (1 + _PERMUTATIONS) >= P:
            return 1.0, correlation  # the rest would not change that
    return (1 + larger) / (1 + _PERMUTATIONS), correlation


def _membership(sizes: list[int]) -> Tensor:
    """Which sample is of which batch, (samples, batches)."""
    member = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return torch.nn.functional.one_hot(member).double()


RULE = Rule("NS406", "non-iid-batches", "warning", check, __doc__, needs=("batches",))
