"""Weight decay pulls γ and β of a norm to 0.

What: parameters of a norm, of any kind, that train and are in a group of the optimizer with weight decay. It is
    information only.

Formula: w ← w − rate·decay·w in each step, beside the gradient, for each parameter w, with the learning rate and the
    weight decay of its group.

Why it hurts: perhaps not at all. Decay on the weights before a norm only changes how fast their direction changes, as
    the norm undoes their scale; decay on γ does shrink the outputs. Recipes for large batches leave γ and β out, others
    decay everything, and the differences in accuracy are small and of either sign.

Threshold: any weight decay above 0.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    findings = normsmith.check(model, optimizer=optimizer, select=["NS206"])
    assert findings.codes == ("NS206",)
    assert findings.passed()  # it is information
    findings.fix(model, optimizer=optimizer)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert not normsmith.check(model, optimizer=optimizer, select=["NS206"])

Fix: `normsmith.check(model, optimizer=optimizer, select=["NS206"]).fix(model, optimizer=optimizer)` gives γ and β a
    group of their own. By hand, where the optimizer is made:

        of_norms = [p for m in model.modules() if isinstance(m, nn.BatchNorm1d) for p in m.parameters()]
        ids = {id(p) for p in of_norms}
        others = [p for p in model.parameters() if id(p) not in ids]
        optimizer = torch.optim.AdamW([{"params": others}, {"params": of_norms, "weight_decay": 0.0}], lr=0.001)

    Do it before a scheduler of the learning rate is made, which counts the groups.

Threads: pytorch/pytorch#1402, torch/torch7#846, ultralytics/yolov5#4104, HuangYG123/CurricularFace#15,
    nmndeep/revisiting-at#2.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.optim import Optimizer

from normsmith._text import number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.neighbours import affine_norms
from normsmith.checks.rule import Rule

_CODE = "one group with weight_decay=0 for the parameters of norms, one for the others"


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm whose parameters decay."""
    assert context.optimizer is not None
    groups = {id(p): group for group in context.optimizer.param_groups for p in group["params"]}
    norms = affine_norms(context.network)
    fix = Fix(
        _CODE,
        optimizer=partial(_split, norms=[p for norm in norms for p in norm.trainable]),
        keeps_outputs=True,
    )
    for norm in norms:
        decay = max((groups.get(id(p), {}).get("weight_decay", 0) for p in norm.trainable), default=0)
        if decay > 0:
            yield Finding(
                norm.path,
                f"γ and β decay by {number(float(decay))} times the learning rate at each step",
                "one group for all parameters",
                fix,
                quantity="weight decay",
                measured=float(decay),
                threshold=0,
                also=norm.also,
            )


def _split(optimizer: Optimizer, norms: list[nn.Parameter]) -> None:
    """Give the norms' parameters groups of their own without decay, with all other settings as they were."""
    wanted = {id(parameter) for parameter in norms}
    for group in list(optimizer.param_groups):
        moved = [p for p in group["params"] if id(p) in wanted]
        if not moved or not group.get("weight_decay"):
            continue
        group["params"] = [p for p in group["params"] if id(p) not in wanted]
        optimizer.add_param_group({**group, "params": moved, "weight_decay": 0.0})


RULE = Rule("NS206", "decayed-affine", "info", check, __doc__, needs=("optimizer",))
