"""One half of a batch norm is frozen and the other half moves: its running statistics, or γ and β.

What: running statistics that stay constant (by `normsmith.surgery.freeze`, or by evaluation mode within a model that
    trains) while γ and β train; or γ and β that do not train while the statistics move, in a part of the model that
    does train.
    - Warning: γ and β were trained before one half was frozen. The other half was probably forgotten, unless
      `freeze(model, "statistics")` says that only statistics are meant.
    - Warning, if only some norms are like this, or the model has only this one: statistics and the neighbouring layer
      are frozen, but γ and β still train.
    - Warning, if only some norms are like this, or the model has only this one: γ and β are frozen, but the statistics
      move.
    - Information: every other case, which is probably on purpose.
    Nothing is reported of γ and β that are in no group of the optimizer, if you give it. Of a part that is frozen
    altogether, NS305 reports whether its statistics move.

Formula: y = γ·(x − mean) / sqrt(var + eps) + β: in a frozen layer γ, β, mean and var are all constant.

Why it hurts: a part that is thought to be constant still changes. Where γ and β train, the part adapts to the new data,
    and overfits if there are few samples. Where the statistics move, it drifts to the new data, and the trained layers
    after it follow.

Threshold: none: each half moves or not.

Reproduction:
    import normsmith
    from torch import nn

    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    model = nn.Sequential(body, nn.Flatten(), nn.LazyLinear(2)).train()
    body[0].requires_grad_(False)
    body[1].eval()  # and γ and β train
    findings = normsmith.check(model, select=["NS210"])
    assert findings.codes == ("NS210",) and not findings.passed()
    model = findings.fix(model)
    assert not body[1].weight.requires_grad
    assert not normsmith.check(model, select=["NS210"])

Fix: freeze the half that moves, with the finding's path:
    - γ and β train but should not: `model = normsmith.surgery.freeze(model, "affine", only=path).apply()`.
    - Statistics move but should not: `model = normsmith.surgery.freeze(model, "statistics", only=path).apply()`.
    Or unfreeze the other half, with `.requires_grad_(True)` on the norm, or with `model.train()`.

Threads: isht7/pytorch-deeplab-resnet#23, filipradenovic/cnnimageretrieval-pytorch#19, VectXmy/FCOS.Pytorch#9,
    pytorch/pytorch#86590.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Literal

from torch import nn

from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.neighbours import AffineNorm, affine_norms
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.layers.statistics import StatisticsBase
from normsmith.surgery import freeze

_Half = Literal["statistics", "affine"]
_SAYS: dict[_Half, str] = {
    "affine": "its statistics are frozen, and γ and β train",
    "statistics": "γ and β do not train, and its statistics move",
}
_CAUSE: dict[_Half, str] = {
    "affine": ".eval() freezes the statistics alone",
    "statistics": "requires_grad=False freezes γ and β alone",
}


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm of which one half moves."""
    beside = {norm.module: norm for norm in affine_norms(context.network)}
    affine = [norm for norm in context.norms if norm.module in beside]
    moving = {
        norm: half
        for norm in affine
        if (half := _moving_half(context, norm, beside[norm.module])) is not None
    }
    alike = len(moving) == len(affine) and len(set(moving.values())) == 1
    for norm, half in moving.items():
        # new γ and β may be frozen in place of affine=False, and freeze(model, "statistics") says what it means
        forgotten = norm.has_trained and not (half == "affine" and norm.is_pinned)
        meant = (alike and len(affine) > 1 and not forgotten) or (
            half == "affine" and beside[norm.module].neighbour_trains and not forgotten
        )
        yield Finding(
            norm.path,
            _SAYS[half],
            _CAUSE[half],
            Fix(
                f'model = normsmith.surgery.freeze(model, "{half}", only={norm.path!r}).apply()',
                plan=partial(freeze, what=half, only=norm.path),
                keeps_outputs=True,
            ),
            also=norm.also,
            severity="info" if meant else "",
        )


def _moving_half(context: Context, norm: Norm, affine: AffineNorm) -> _Half | None:
    """Which half of a norm moves while the other one is frozen; None where both do, or neither."""
    if not norm.in_training or not norm.others_train or not norm.keeps_statistics:
        return None
    module = norm.module
    pinned = isinstance(module, StatisticsBase) and module.pinned is not None
    frozen = pinned or not module.training
    if affine.trainable:
        return "affine" if frozen and _train(context, affine.trainable) else None
    moves = not frozen and norm.updates and norm.momentum != 0
    return "statistics" if moves and affine.neighbour_trains else None


def _train(context: Context, parameters: Iterable[nn.Parameter]) -> bool:
    """Whether any of these is trained: by the optimizer, where there is one."""
    if context.optimizer is None:
        return any(True for _ in parameters)
    stepped = {id(parameter) for group in context.optimizer.param_groups for parameter in group["params"]}
    return any(id(parameter) in stepped for parameter in parameters)


RULE = Rule("NS210", "half-frozen", "warning", check, __doc__, varies=("info",))
