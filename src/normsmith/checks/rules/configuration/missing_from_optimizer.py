"""γ and β of a norm are in no group of the optimizer: they never train.

What: parameters of a norm, of any kind, that require gradients and are in none of the optimizer's groups, though the
    optimizer has the layer beside the norm; or the optimizer has no parameter of the model at all. Where that layer is
    left out too, as where only a head is trained, and where the norm is frozen, nothing is reported.

Formula: none: a parameter is in `optimizer.param_groups` or not.

Why it hurts: γ stays at 1 and β at 0, so that each channel has the same scale after the norm, and the offset that a
    layer without a bias leaves to β is never learned. It happens where norms were put in after the optimizer was made,
    where the groups were made by names or of weights with at least two dimensions, and where the model was copied
    afterwards.

Threshold: none: one parameter is enough.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.ndim > 1], lr=0.1)  # no biases, it is thought
    findings = normsmith.check(model, optimizer=optimizer)
    assert "NS207" in findings.codes
    findings.fix(model, optimizer=optimizer, codes=["NS207"])
    assert normsmith.check(model, optimizer=optimizer, select=["NS207"]).passed()

Fix: put them in the group of the layer beside them,
    `optimizer.param_groups[0]["params"].extend(model.get_submodule(path).parameters())`, or in a group without weight
    decay, `optimizer.add_param_group({"params": list(model.get_submodule(path).parameters()), "weight_decay": 0.0})`,
    with the finding's path. Plans of `normsmith.surgery` do it by themselves if they are given the optimizer:
    `model = normsmith.surgery.convert(model, "renorm").apply(optimizer=optimizer)`.

Threads: Eric-mingjie/network-slimming#18 (not in model.parameters()), kakaobrain/fast-autoaugment#50 (groups by name),
    ultralytics/yolov5#7375 (groups by class), pyro-ppl/pyro#2459.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.optim import Optimizer

from normsmith._text import count
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.neighbours import affine_norms
from normsmith.checks.rule import Rule


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm whose parameters the optimizer does not have."""
    assert context.optimizer is not None
    trained = {id(p) for group in context.optimizer.param_groups for p in group["params"]}
    knows_model = any(id(parameter) in trained for parameter in context.network.parameters())
    frozen = {norm.module for norm in context.norms if norm.is_frozen}
    for norm in affine_norms(context.network):
        missing = [parameter for parameter in norm.trainable if id(parameter) not in trained]
        beside = not norm.neighbour or any(id(parameter) in trained for parameter in norm.neighbour)
        if not missing or norm.module in frozen or (knows_model and not beside):
            continue
        yield Finding(
            norm.path,
            f"{count(len(missing), 'parameter')} of it {'is' if len(missing) == 1 else 'are'} in no group of the "
            "optimizer",
            "groups that leave norms out, or a norm that is newer than the optimizer"
            if knows_model
            else "an optimizer of another model, or of this one before it was copied",
            Fix(
                f'optimizer.param_groups[0]["params"].extend(model.get_submodule({norm.path!r}).parameters())',
                optimizer=partial(_join, missing=missing, beside=norm.neighbour) if knows_model else None,
                keeps_outputs=True,
            ),
            quantity="parameters left out",
            measured=len(missing),
            threshold=0,
            also=norm.also,
        )


def _join(optimizer: Optimizer, missing: list[nn.Parameter], beside: tuple[nn.Parameter, ...]) -> None:
    """Put parameters in the group of the layer beside them, so that a scheduler sees no new group."""
    near = {id(parameter) for parameter in beside}
    groups = optimizer.param_groups
    group = next((g for g in groups if any(id(p) in near for p in g["params"])), groups[0])
    present = {id(p) for g in groups for p in g["params"]}
    group["params"].extend(p for p in missing if id(p) not in present)


RULE = Rule("NS207", "missing-from-optimizer", "warning", check, __doc__, needs=("optimizer",))
