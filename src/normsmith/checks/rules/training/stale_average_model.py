"""The averaged copy of a model (EMA, SWA, target network) has running statistics that do not fit its weights.

What: the averaged copy, given as `ema=...`, has running statistics that differ from those of batches that go through it
    (as in NS404), which costs loss or metric in evaluation; or they are still 0 and 1, though its γ or β are trained.
    The finding tells the likely cause by comparing its buffers with those of the model. Buffers that were averaged or
    copied, and fit, are right, and nothing is reported.

Formula: the average w̄ = Σ aₜ·wₜ of the weights wₜ of many steps t, with shares aₜ, gives the norms inputs whose mean μ
    and variance σ² are not the averages of the means and variances that the single wₜ gave. Reported is
    |running_mean − μ| / σ > 0.1, or |log(running_var + eps) − log(σ² + eps)| > 0.2, beyond noise, in a tenth of the
    channels, with μ and σ² of batches that go through the averaged copy.

Why it hurts: the average is what is evaluated and published. A loop over `parameters()` forgets the buffers, which stay
    those of the first copy. `torch.optim.swa_utils.AveragedModel` copies the buffers of the model by default, and these
    fit the model's own weights, not the averaged ones.

Threshold: 0.1 and 0.2, and a loss that is worse by 0.05 or a metric by 0.01 (one percentage point), as in NS404: our
    own choice. Or exactly 0 and 1, the buffers of a new layer.

Reproduction:
    import copy, normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    average, optimizer = copy.deepcopy(model), torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.randn(32, 4) + 3, torch.randint(2, (32,))) for _ in range(16)]
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        for mine, its in zip(average.parameters(), model.parameters()):
            mine.data.lerp_(its.data, 0.5)  # the buffers are forgotten
    findings = normsmith.check(model, batches, ema=average, select=["NS308"])
    assert findings.codes == ("NS308",)
    average = normsmith.surgery.recalibrate(average, batches).apply()
    assert normsmith.check(model, batches, ema=average, select=["NS308"]).passed()

Fix: `average = normsmith.surgery.recalibrate(average, batches).apply()` each time before the average is evaluated or
    saved (`torch.optim.swa_utils.update_bn` is similar). For an EMA that follows slowly, averaging or copying the
    buffers along with the weights is enough. Of several models with data of their own (federated averaging, soups),
    surgery.average keeps the variance between them, which an average of buffers loses.

Threads: pytorch/ignite#2590, mosaicml/composer#624, fadel/pytorch_ema#13, CuriousAI/mean-teacher#9,
    boschresearch/OASIS#21, huggingface/pytorch-image-models#106 (when averaged buffers do).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.norms import Norm, statistics_tensors
from normsmith.checks.rule import Rule
from normsmith.checks.shift import CHANNELS, Shift
from normsmith.checks.staleness import AVERAGED, staleness

_FIX = Fix(
    "ema = normsmith.surgery.recalibrate(ema, batches).apply()  # before the average is evaluated or saved"
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm of the average whose statistics do not fit it."""
    average = context.average
    forgotten = [norm for norm in average.norms if _is_forgotten(norm) and average.may_call(norm)]
    for norm in forgotten:
        yield Finding(
            norm.path,
            "in the averaged copy the running mean is 0 and the running variance 1, though γ and β are trained",
            "the average is made of the parameters alone: its buffers are those of a new layer",
            _FIX,
            also=norm.also,
        )
    if average.data is None or not average.looks_at_data:
        if forgotten:
            return
        raise UnavailableError("give batches=..." if average.data is None else "from level standard on")
    stale = None if forgotten and _has_no_other(average, forgotten) else staleness(average)
    if stale is None:
        return
    for norm, away in stale.shifts.items():
        yield Finding(
            norm.path,
            f"in the averaged copy running statistics are off {away.text}; {stale.cost}",
            _cause(context, norm, away),
            _FIX,
            quantity="share of channels",
            measured=away.share,
            threshold=CHANNELS,
            batches=len(average.measured),
            also=norm.also,
            evidence=away.to_dict("running statistics of the average", "the data"),
        )


def _is_forgotten(norm: Norm) -> bool:
    return norm.is_at_start and norm.has_trained and not norm.is_pinned


def _has_no_other(average: Context, forgotten: list[Norm]) -> bool:
    return len(forgotten) == sum(norm.updates for norm in average.norms)


def _cause(context: Context, norm: Norm, away: Shift) -> str:
    """Where the statistics of a norm of the average come from, by those of the same norm of the model."""
    path = norm.path.removeprefix("module.")  # of AveragedModel
    its = next((statistics_tensors(other) for other in context.norms if other.path == path), None)
    mine = statistics_tensors(norm)
    if its is not None and mine is not None and all(map(torch.equal, mine, its)):
        return "buffers copied from the model: they fit its weights, not their average"
    if away.lacks_variance:
        return AVERAGED
    return "buffers left from an earlier time, or averaged over weights that are far apart"


RULE = Rule("NS308", "stale-average-model", "error", check, __doc__, needs=("ema",))
