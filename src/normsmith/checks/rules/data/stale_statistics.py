"""The running statistics of a batch norm are not those of the data, and that costs loss or metric in evaluation.

What: a layer's running mean and variance differ from the average statistics of batches in training mode by more than
    sampling explains, in a tenth of its channels or more; and that costs loss or metric. For that, statistics are
    measured on one part of your batches, and the loss in evaluation is compared on the rest, once with the new
    statistics, once with the running ones.

Formula: |running_mean − μ| / σ > 0.1 + 2.58·s_μ, or |log(running_var + eps) − log(σ² + eps)| > 0.2 + 2.58·s_σ. μ and σ²
    are the mean and variance of a channel, averaged over B batches. The standard errors s_μ (of μ/σ) and s_σ (of log
    σ²) follow from s² = (1/B + m/(2 − m))·v, with the variance v of that quantity between batches and the momentum m:
    the running average is noisy itself. Chance stays within 2.58 of them in 99 % of the channels.

Why it hurts: evaluation normalises by these statistics: the network is good in training and bad in evaluation, also on
    the training data themselves. They are stale after weights were averaged (EMA, SWA), pruned, quantised, merged or
    loaded; after a last phase with a high learning rate or a tiny momentum; and on data that differ from the training
    data. Variances that were averaged over several models (federated learning, soups, shards) lack what the means of
    the models differ by; the finding says so where the means fit and the variances are too small.

Threshold: 0.1 σ between means and a fifth (0.2 in the logarithm) between variances, our own choice: healthy networks on
    a set of handwritten digits stay below once sampling is accounted for. Besides, it has to cost something, beyond
    noise between batches: a loss that is worse by 0.05, a metric that is worse by 0.01 (one percentage point), or, for
    losses on a smaller scale, one that is worse by at least 50 % while the outputs move by a fifth of their spread.
    Without a loss, outputs that move by a fifth of their spread.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    data = [torch.randn(64, 4) for _ in range(16)]
    batches = [(x, (x[:, 0] > 0).long()) for x in data]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for x, y in 10 * batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    loss = nn.functional.cross_entropy
    assert normsmith.check(model, batches, loss=loss).passed()
    other = [(x + 2, y) for x, y in batches]  # a camera with another offset
    findings = normsmith.check(model, other, loss=loss)
    assert "NS404" in findings.codes
    model = findings.fix(model)
    assert normsmith.check(model, other, loss=loss).passed()

Fix: `model = normsmith.surgery.recalibrate(model, batches).apply()`; after averaging weights, each time before
    evaluation. Of models whose data cannot be put together, surgery.merge_statistics or surgery.average in place of an
    average of buffers, and surgery.recalibrate with `group=` over the parties.

Threads: pytorch/pytorch#4741 (high error in evaluation), huggingface/pytorch-image-models#245 (EMA),
    fadel/pytorch_ema#13, pytorch/ignite#2590, mlcommons/algorithmic-efficiency#767.
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, UnavailableError
from normsmith.checks.rule import Rule
from normsmith.checks.shift import CHANNELS
from normsmith.checks.staleness import AVERAGED, staleness

_CAUSE = "weights that changed without their statistics (EMA, SWA, merging, loading), or other data"


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm with such statistics, if they cost something together."""
    if context.norms and all(norm.is_at_start for norm in context.norms if norm.updates):
        raise UnavailableError("no batch has moved the running statistics yet")
    stale = staleness(context)
    if stale is None:
        return
    for norm, away in stale.shifts.items():
        yield Finding(
            norm.path,
            f"running statistics are off {away.text}; {stale.cost}",
            AVERAGED if away.lacks_variance else _CAUSE,
            context.recalibration(),
            quantity="share of channels",
            measured=away.share,
            threshold=CHANNELS,
            batches=len(context.measured),
            also=norm.also,
            evidence=away.to_dict("running statistics", "the data"),
        )


RULE = Rule("NS404", "stale-statistics", "error", check, __doc__, needs=("batches",))
