"""The parameters of a batch norm are frozen, but its running statistics go on moving.

What: γ and β of a norm have `requires_grad=False`, or the norm stands in a part of the model that is frozen; and it is
    in training mode when the model trains. If you give a `training_step`, level deep looks at the steps themselves. It
    then also finds a norm that you put into evaluation mode and that a `model.train()` within the step puts back,
    whatever its parameters do. Norms that stay in evaluation mode, or that `normsmith.surgery.freeze` holds, while the
    rest trains are frozen properly, and nothing is reported.

Formula: running ← (1 − momentum)·running + momentum·batch in each training forward, whatever `requires_grad` is: that
    is a property of parameters, and running statistics are buffers.

Why it hurts: the frozen part normalises by small batches of the new data in training, and in evaluation by statistics
    that drift towards them; its frozen weights fit neither. The features are not those of the pretrained network, other
    heads on the same backbone break, and no parameter shows it.

Threshold: none: the statistics move or not. Two cases are no fault. γ and β that do not require gradients and still
    have their initial values, while the layer before them trains, only mean a norm without an affine part. And momentum
    encoders have parameters that the training step moves without gradients.

Reproduction:
    import normsmith
    from torch import nn

    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    model = nn.Sequential(backbone, nn.Flatten(), nn.Linear(8 * 36, 2))
    backbone.requires_grad_(False)
    findings = normsmith.check(model, select=["NS305"])
    assert [finding.path for finding in findings] == ["0.1"]
    model = findings.fix(model)
    assert normsmith.check(model.train(), select=["NS305"]).passed()

Fix: `model = normsmith.surgery.freeze(model, "statistics", only="0.*").apply()`, with the paths of the frozen part:
    `only="0.*"` for the network above, `only="backbone.*"` if the part is the attribute `backbone`. No later `.train()`
    undoes that. Or call `.eval()` on the frozen part after each `model.train()`.

Threads: lightly-ai/lightly#1438, pytorch/pytorch#86590, jfzhang95/pytorch-deeplab-xception#140 (thawed by train()),
    pgniewko/gt-pyg#112, poppinace/indexnet_matting#35, ultralytics/ultralytics#8753.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn

from normsmith._torch import parameters_of
from normsmith.anatomy.batch_norms import is_batch_norm
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.norms import Norm
from normsmith.checks.restore import modes_kept
from normsmith.checks.rule import Rule
from normsmith.checks.watcher import Record
from normsmith.surgery import freeze


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm whose parameters are frozen and whose statistics are not."""
    for norm in context.norms:
        around = _frozen_around(context.network, norm)
        was_in_evaluation = norm.in_training and not norm.module.training
        meant = bool(around) or (was_in_evaluation and norm.updates and not norm.is_pinned)
        if not meant or norm.momentum == 0 or not _moves(context, norm, around) or not context.may_call(norm):
            continue
        yield Finding(
            norm.path,
            f"{'its parameters are frozen' if around else 'it is put into evaluation mode'}, but each training forward "
            "moves its running statistics",
            "the training step calls train(), which ends the evaluation mode"
            if was_in_evaluation
            else "requires_grad=False speaks of parameters; running statistics follow the mode",
            Fix(
                f'model = normsmith.surgery.freeze(model, "statistics", only={norm.path!r}).apply()',
                plan=partial(freeze, what="statistics", only=norm.path),
                keeps_outputs=True,
            ),
            also=norm.also,
        )


def _frozen_around(model: nn.Module, norm: Norm) -> list[nn.Parameter]:
    """The frozen parameters that say that a norm is meant to be frozen, in a model that trains; none if it is not."""
    own = list(norm.module.parameters())
    if norm.is_pinned or not norm.updates or not norm.others_train or _any_trains(own):
        return []
    if not own:
        around = _of_its_part(model, norm.path)
        return [] if _any_trains(around) else around
    before = _before(model, norm.module)
    return own + before if norm.has_trained or not _any_trains(before) else []


def _of_its_part(model: nn.Module, path: str) -> list[nn.Parameter]:
    """The parameters of the smallest part of the model that has any around a path; none where it is the model."""
    while path := path.rpartition(".")[0]:
        parameters = list(model.get_submodule(path).parameters())
        if parameters:
            return parameters
    return []


def _before(model: nn.Module, norm: nn.Module) -> list[nn.Parameter]:
    """The parameters of the layer that stands before a norm, in the order of the modules; after it if it is first."""
    layers: list[list[nn.Parameter]] = []
    passed = False
    for module in model.modules():
        passed = passed or module is norm
        own = [parameter for parameter in parameters_of(module).values() if parameter is not None]
        if own and not is_batch_norm(module):
            if passed:
                return layers[-1] if layers else own
            layers.append(own)
    return layers[-1] if layers else []


def _any_trains(parameters: list[nn.Parameter]) -> bool:
    return any(parameter.requires_grad for parameter in parameters)


def _moves(context: Context, norm: Norm, around: list[nn.Parameter]) -> bool:
    """Whether training moves the statistics of a norm, and nobody moves the parameters in another way."""
    steps = _own_steps(context)
    if not steps:
        return _trains(context.network, norm)
    held = {id(parameter) for parameter in around if not parameter.requires_grad}  # a layer beside may train
    names = {name for name, parameter in context.network.named_parameters() if id(parameter) in held}
    averaged = any(names & record.moved for record in steps)  # a momentum encoder, which no gradient trains
    return not averaged and any(call.moved for record in steps for call in record.calls_of(norm.path))


def _own_steps(context: Context) -> tuple[Record, ...]:
    """The user's training steps; none where there are none to look at."""
    try:
        return context.own_steps if context.looks_at_training else ()
    except UnavailableError:
        return ()


def _trains(model: nn.Module, norm: Norm) -> bool:
    """Whether the norm is in training mode where the model is."""
    if model.training:
        return norm.module.training
    with modes_kept(model):
        model.train()
        return norm.module.training


RULE = Rule("NS305", "frozen-but-updating", "warning", check, __doc__)
