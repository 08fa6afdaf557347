"""The running statistics of a batch norm are kept in half precision, where their small updates are lost.

What: running mean or variance in bfloat16 or float16. It is information for a network in evaluation mode, as one
    converted for inference; frozen layers of a network in training are left alone.

Formula: running + momentum·(batch − running) is rounded to the nearest number of the format, and a change by less than
    half a step is lost. Steps of bfloat16 are up to 1/128 of the value. So batches that differ from the running value
    by less than 4 % of it can leave it where it is at a momentum of 0.1, and by less than 40 % at 0.01.

Why it hurts: the average stops before it reaches the statistics of the data, however long one trains. In float16,
    besides, variances above 65,504 become infinite and those below 3e-8 zero. The network is good in training and bad
    in evaluation, the more so the smaller the momentum.

Threshold: none: the format is the fault. Autocast leaves these buffers in float32, and normsmith's layers keep them
    there even after `model.bfloat16()`.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.BatchNorm1d(4, momentum=0.01)).bfloat16()
    batches = [1.3 * torch.randn(512, 4).bfloat16() for _ in range(500)]
    for x in batches:
        model(x)
    assert (model[0].running_var < 1.6).all()  # 1.69 is true
    findings = normsmith.check(model)
    assert findings.codes == ("NS208",)

Fix: `model.get_submodule(path).float()` with the finding's path, after `.bfloat16()` or `.half()` of the model: batch
    norms in float32 take inputs in half precision all the same. Better, leave the model in float32 and train under
    `torch.autocast`. Then measure the statistics anew: `model = normsmith.surgery.recalibrate(model, batches).apply()`.

Threads: NVIDIA/apex#144 ("hurts the accuracy of the moment estimators"), mapillary/inplace_abn#86,
    fastai/fastai#507, pytorch/pytorch#126525.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from normsmith._text import number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule

_LOW = (torch.float16, torch.bfloat16)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm with such buffers."""
    for norm in context.norms:
        held = [norm.tensors.get(name) for name in ("running_mean", "running_var")]
        dtypes = {buffer.dtype for buffer in held if buffer is not None and buffer.dtype in _LOW}
        if not dtypes or norm.is_frozen:
            continue
        dtype = max(dtypes, key=lambda one: torch.finfo(one).eps)
        lost = torch.finfo(dtype).eps / 2 / (norm.momentum or 1)
        yield Finding(
            norm.path,
            f"running statistics are in {str(dtype).removeprefix('torch.')}: updates by less than "
            f"{number(100 * lost, 2)} % of a value are lost",
            "model.bfloat16() or model.half(), which turn buffers too",
            Fix(f"model.get_submodule({norm.path!r}).float()"),
            quantity="smallest update",
            measured=lost,
            also=norm.also,
            severity="" if norm.in_training else "info",
        )


RULE = Rule("NS208", "low-precision-buffers", "warning", check, __doc__, varies=("info",))
