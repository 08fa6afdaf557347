"""The ranks (processes) of a distributed run have saved different running statistics beside the same parameters.

What: the files that several ranks have saved, given as `rank_checkpoints=[...]`, have the same parameters, and running
    means or variances that differ between two ranks. Differences as small as those of the last update alone are left
    alone, and so are norms that are frozen. Files whose parameters differ are taken for those of different runs, and
    not compared.

Formula: |μ_i − μ_j| / σ > 0.1 or |log σ²_i − log σ²_j| > 0.2 in a tenth of the channels, where μ_i and σ²_i are the
    running mean and variance that rank i has saved.

Why it hurts: ranks share gradients, but not running statistics, unless buffers are broadcast or norms are synchronised.
    Each rank then evaluates another network, and its metrics are not those of the file that rank 0 saves. Where ranks
    see different data, the statistics of rank 0 fit its share alone.

Threshold: 0.1 and 0.2, our own choice, as in NS404: ranks whose batches are drawn from the same data stay below.

Reproduction:
    import copy, normsmith, tempfile, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    batches = [torch.randn(64, 4) for _ in range(4)]
    files = [f"{tempfile.mkdtemp()}/rank{rank}.pt" for rank in range(2)]
    for rank, file in enumerate(files):
        replica = copy.deepcopy(model)
        for _ in range(30):
            replica(torch.randn(64, 4) + rank)  # each rank has data of its own
        torch.save(replica.state_dict(), file)
    findings = normsmith.check(model, rank_checkpoints=files, select=["NS307"])
    assert findings.codes == ("NS307",)
    assert normsmith.check(model, rank_checkpoints=[files[0], files[0]], select=["NS307"]).passed()

Fix: train with `model = nn.SyncBatchNorm.convert_sync_batchnorm(model)`, or with
    `DistributedDataParallel(..., broadcast_buffers=True)` (from torch 2.13 on `forward_sync_buffers=True`). Without new
    training, within the distributed run (after `torch.distributed.init_process_group`), on all ranks and before saving:
    `model = normsmith.surgery.recalibrate(model, batches, group="world").apply()`, which measures over all ranks. In a
    single process leave `group` out.

Threads: pytorch/pytorch#13711, open-mmlab/mmdetection#2539 (buffers not broadcast), open-mmlab/mmpose#998,
    huggingface/pytorch-image-models#110, pytorch/examples#571.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor

from normsmith._text import count, number
from normsmith.checks.context import Context
from normsmith.checks.files import Saved, of_norm, saved
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.checks.shift import CHANNELS, LOG_VARIANCE, MEAN

_FIX = Fix(
    'model = normsmith.surgery.recalibrate(model, batches, group="world").apply()  # on all ranks, before saving; '
    "or nn.SyncBatchNorm"
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm whose statistics differ between two ranks."""
    ranks = [saved(context.network, path) for path in context.rank_checkpoints or ()]
    if len(ranks) < 2:
        raise UnavailableError("give the files of two ranks or more as rank_checkpoints=...")
    names = [name for name, _ in context.network.named_parameters()]
    if any(
        name in rank and not torch.equal(rank[name], ranks[0][name]) for rank in ranks[1:] for name in names
    ):
        raise UnavailableError("the files differ in their parameters: they are not of the ranks of one run")
    for norm in context.norms:
        statistics = [_statistics(norm, rank) for rank in ranks]
        held = [pair for pair in statistics if pair is not None]
        if norm.is_frozen or not norm.updates or len(held) < 2:
            continue
        share = max(_share(one, other, norm.epsilon) for one, other in combinations(held, 2))
        if share >= CHANNELS:
            yield Finding(
                norm.path,
                f"running statistics differ between {count(len(ranks), 'rank')} in {number(100 * share, 2)} % of its "
                "channels",
                "buffers that are not broadcast, and norms that are not synchronised",
                _FIX,
                quantity="share of channels",
                measured=share,
                threshold=CHANNELS,
                also=norm.also,
            )


def _statistics(norm: Norm, rank: Saved) -> tuple[Tensor, Tensor] | None:
    """The running mean and variance of a norm in the file of a rank; None where it has none."""
    tensors = of_norm(norm, rank)
    if "running_mean" not in tensors or "running_var" not in tensors:
        return None
    return tensors["running_mean"].double(), tensors["running_var"].double()


def _share(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], epsilon: float) -> float:
    """The share of the channels in which two ranks differ."""
    variances = [(var + epsilon).clamp(min=1e-30) for _, var in (one, other)]
    apart = (one[0] - other[0]).abs() / torch.minimum(*variances).sqrt() > MEAN
    factor = (variances[0].log() - variances[1].log()).abs() > LOG_VARIANCE
    return float((apart | factor).double().mean())


RULE = Rule("NS307", "rank-divergence", "warning", check, __doc__, needs=("rank_checkpoints",))
