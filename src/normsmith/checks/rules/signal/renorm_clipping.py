"""The bounds of batch renorm cut off its correction in many channels: it is batch norm there, with its noise.

What: batch renorm normalises by the batch and corrects the result towards the running statistics with a factor r
    (scale) and an offset d (shift), which are kept within bounds. In eight training steps on a copy, r or d of a layer
    is cut off at its bounds in more than a fifth of the channels, on average and beyond the error of that average. Not
    counted are calls while the schedule still opens the bounds, layers whose running statistics are still partly the
    initial 0 and 1, and layers whose bounds never open, which are batch norm on purpose.

Formula: r = σ_batch/σ and d = (μ_batch − μ)/σ, with mean and standard deviation of the batch, and running ones μ and σ.
    A channel is cut off where r > r_max, r < 1/r_max or |d| > d_max.

Why it hurts: batch renorm trains on the statistics that evaluation uses, as far as its bounds allow. Where they cut,
    training normalises partly by the batch and differs from evaluation as with batch norm, and its small batches were
    the reason to take renorm.

Threshold: a fifth of the channels, our own choice. With batches of two values even the r_max of 3 of the paper (Ioffe
    2017) exceeds it.

Reproduction:
    import normsmith, torch
    from torch import nn
    from normsmith.layers import BatchRenorm1d
    from normsmith.layers.schedules import constant

    norm = BatchRenorm1d(16, schedule=constant(1.05, 0.05))
    model = nn.Sequential(nn.Linear(8, 16), norm, nn.ReLU(), nn.Linear(16, 2))
    batches = [(torch.randn(8, 8), torch.randint(2, (8,))) for _ in range(100)]
    for x, _ in batches:
        model(x)
    given = {"loss": nn.functional.cross_entropy, "level": "deep", "select": ["NS507"]}
    (finding,) = normsmith.check(model, batches, **given)
    assert finding.path == "1"
    norm.schedule = constant(3.0, 5.0)
    assert normsmith.check(model, batches, **given).passed()

Fix: wider bounds, which the finding names:
    `model.get_submodule(path).schedule = normsmith.layers.schedules.constant(3.0, 5.0)` with the finding's path, r_max
    and d_max; or larger batches; or a smaller learning rate where the running statistics are behind.

Threads: tensorflow/tensorflow#7476 (how to set them), keras-team/keras-contrib#127 (always closed),
    keras-team/keras-contrib#142.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from statistics import mean, stdev

from normsmith._text import number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.layers.schedules import constant

SHARE = 0.2
_CERTAIN = 2.58
_FEWEST = 4
_AT_START = 0.05
"""The share of the initial 0 and 1 in running statistics from which on they are no average yet, as in NS202."""


def check(context: Context) -> Iterator[Finding]:
    """A finding for each renorm layer whose correction is cut off in many channels."""
    norms = {norm.path: norm for norm in context.norms}
    for signal in context.signals.renorms:
        norm = norms.get(signal.path)
        if norm is None or _is_new(norm) or norm.is_frozen or len(signal.clipped) < _FEWEST:
            continue
        share = mean(signal.clipped)
        if share - _CERTAIN * stdev(signal.clipped) / sqrt(len(signal.clipped)) <= SHARE:
            continue
        usual = constant()
        r = max(usual.r_max, float(f"{max(signal.r):.2g}"))
        d = max(usual.d_max, float(f"{max(signal.d):.2g}"))
        yield Finding(
            signal.path,
            f"r or d are cut off in {number(100 * share, 2)} % of the channels, at r_max={number(signal.bounds[0])} "
            f"and d_max={number(signal.bounds[1])}",
            "bounds that are too tight for batches of this size, or weights that move too fast",
            Fix(
                f'model.get_submodule("{signal.path}").schedule = normsmith.layers.schedules.constant({r}, {d})'
            ),
            quantity="share of channels",
            measured=share,
            threshold=SHARE,
            batches=len(signal.clipped),
            also=norm.also,
        )


def _is_new(norm: Norm) -> bool:
    """Whether the running statistics are no average of the data yet."""
    return norm.is_at_start or norm.initial_share > _AT_START


RULE = Rule("NS507", "renorm-clipping", "warning", check, __doc__, needs=("batches", "training"))
