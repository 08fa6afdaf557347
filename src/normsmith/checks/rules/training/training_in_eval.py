"""A training step runs with batch norms in evaluation mode: they train on statistics that nothing updates.

What: your `training_step` is run on a copy that starts in training mode, before and after `validate`, and each call of
    a norm is looked at.
    - Error: the whole model is in evaluation mode in a step, because `validate` or the step itself put it there; or a
      norm that trained before is in evaluation mode in a later step.
    - Error: `model.training` is True but all layers are in evaluation mode.
    - Warning: you handed the model over in evaluation mode and the step leaves it so. Perhaps your `model.train()`
      stands outside of the step.
    - Information: only the norms, or a part, are in evaluation mode.
    Left alone are frozen parts, none of whose parameters move, and forwards in evaluation mode beside one in training
    mode, as for pseudo-labels.

Formula: y = γ·(x − running_mean) / sqrt(running_var + eps) + β in training too, with statistics that nothing updates.

Why it hurts: a validation calls `model.eval()`, and nobody calls `model.train()` after it. The rest of the training
    then goes on without batch statistics, without the gradients through them, and without dropout. The weights move on
    while the statistics stay where they were, so that activations drift or diverge. No error is raised; the training
    loss is merely worse from the second epoch on.

Threshold: a training step with gradients, none of whose forwards has the norm in training mode.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    batches = [(torch.randn(32, 4), torch.randint(2, (32,))) for _ in range(4)]

    def step(model, batches, optimizer):
        x, y = next(batches)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    given = {"training_step": step, "validate": lambda model: model.eval()(batches[0][0]), "level": "deep"}
    assert normsmith.check(model, batches, select=["NS309"], **given).codes == ("NS309",)
    given["training_step"] = lambda model, *rest: step(model.train(), *rest)
    assert normsmith.check(model, batches, select=["NS309"], **given).passed()

Fix: `model.train()` at the beginning of each epoch, and after each validation within an epoch. If the norms are meant
    to be frozen, say so: `model = normsmith.surgery.freeze(model, "statistics").apply()`.

Threads: wkentaro/pytorch-fcn#56, joeynmt/joeynmt#184, fartashf/vsepp#4, tk-rusch/coRNN#1, ServiceNow/LCFCN#20,
    pytorch/tutorials#1624.
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith._text import count, some
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.checks.watcher import Record

_TRAIN = Fix("model.train() at the beginning of each epoch and after each validation")
_MEANT = Fix('model.train(), or model = normsmith.surgery.freeze(model, "statistics").apply() if it is meant')


def check(context: Context) -> Iterator[Finding]:
    """An error for the model where it trains in evaluation mode; information for each norm that does."""
    steps = context.own_steps
    caught = {
        number: [norm for norm in context.norms if _trains_in_evaluation(norm, record)]
        for number, record in enumerate(steps)
    }
    by_accident = {
        norm
        for number, norms in caught.items()
        for norm in norms
        if not any(steps[number].modes) or _trained_before(norm, steps[:number])
    }
    if by_accident:
        first = min(number for number, norms in caught.items() if by_accident & set(norms))
        paths = [norm.path for norm in context.norms if norm in by_accident]
        after = context.training.after is not None and first == len(steps) - 1
        yield Finding(
            "",
            f"{count(len(paths), 'norm')} ({some(paths, 3)}) in evaluation mode in a training step"
            f"{' after the validation' if after else ''}: running statistics stay while parameters move",
            "eval() in the validation, and no train() after it"
            if after
            else "eval() before or in the training step",
            _TRAIN,
            quantity="norms in evaluation mode",
            measured=len(paths),
            threshold=0,
            severity="error",
        )
    elif as_it_came := _left_as_it_came(context):
        yield Finding(
            "",
            f"was handed over in evaluation mode, and training_step leaves {count(len(as_it_came), 'norm')} "
            f"({some([norm.path for norm in as_it_came], 3)}) there: running statistics stay while parameters move",
            "a model that is loaded in evaluation mode, and no train() before it is trained on",
            Fix(
                "model.train() before training; if you have that outside of the step, hand over model.train()"
            ),
            quantity="norms in evaluation mode",
            measured=len(as_it_came),
            threshold=0,
            severity="warning",
        )
    for norm in dict.fromkeys(norm for norms in caught.values() for norm in norms):
        if norm not in by_accident:
            yield Finding(
                norm.path,
                "is in evaluation mode in the training steps, while its parameters move",
                "put into evaluation mode by itself, within a model that trains",
                _MEANT,
                also=norm.also,
                severity="info",
            )


def _left_as_it_came(context: Context) -> list[Norm]:
    """The norms that train in evaluation mode where the whole model comes in it, and the step calls no train()."""
    if any(module.training for module in context.network.modules()):
        return []
    record = context.step_in_evaluation
    return [] if any(record.modes) else [n for n in context.norms if _trains_in_evaluation(n, record)]


def _trains_in_evaluation(norm: Norm, record: Record) -> bool:
    """Whether a step trains through a norm that is in evaluation mode in all of its forwards."""
    calls = record.calls_of(norm.path)
    evaluated = (
        bool(calls) and not any(call.training for call in calls) and any(call.records for call in calls)
    )
    return evaluated and norm.updates and not norm.is_pinned and norm.momentum != 0 and _moves(norm, record)


def _moves(norm: Norm, record: Record) -> bool:
    """Whether parameters of a norm, or of the part that it stands in, moved in a step."""
    own = f"{norm.path}." if norm.path else ""
    if next(norm.module.parameters(), None) is None:
        own = own.removesuffix(".").rpartition(".")[0]
    return any(name.startswith(own) for name in record.moved)


def _trained_before(norm: Norm, records: tuple[Record, ...]) -> bool:
    return any(call.training for record in records for call in record.calls_of(norm.path))


RULE = Rule(
    "NS309",
    "training-in-eval",
    "error",
    check,
    __doc__,
    needs=("batches", "training"),
    varies=("warning", "info"),
)
