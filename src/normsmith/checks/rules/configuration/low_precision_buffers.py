"""The running statistics of a batch norm are kept in half precision, where their small updates are lost.

What: running mean or variance in bfloat16 or float16. Of a network in evaluation mode, as converted for inference, it
    is information; frozen layers in training are left alone.

Formula: running + momentum·(batch − running) is rounded to the nearest number of the format. What changes it by less
    than half a step is lost: in bfloat16 (steps of 1/128) at a momentum of 0.1 all that differs from the running value
    by less than 4 %, at 0.01 by less than 40 %.

Why it hurts: the average stops moving where it is, far from the data's, however long one trains; in float16 variances
    above 65,504 are infinite besides, and those below 6e-8 zero. Good in training, bad in evaluation.

Threshold: none: the format is the fault. Autocast alone keeps these buffers in float32, and so do
    normsmith's layers whatever the model is turned to.

Reproduction:
    import normsmith, torch
    from torch import nn

    layer = nn.BatchNorm1d(4, momentum=0.01).bfloat16()
    for _ in range(500):
        layer(1.3 * torch.randn(512, 4).bfloat16())
    assert (layer.running_var < 1.6).all()  # 1.69 is true
    findings = normsmith.check(nn.Sequential(layer))
    assert findings.codes == ("NS208",)

Fix: `model.get_submodule(path).float()` after `model.bfloat16()` or `model.half()`: batch norms take inputs in half
    precision all the same. Better, leave the model in float32 and train under `torch.autocast`. Then recalibrate.

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


RULE = Rule("NS208", "low-precision-buffers", "warning", check, __doc__)
