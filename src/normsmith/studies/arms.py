"""Arms: what a study does to the task's model before it trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeAlias

from torch import nn

from normsmith import surgery
from normsmith._text import path_text, some
from normsmith.anatomy.batch_norms import is_batch_norm
from normsmith.errors import StudyError, SurgeryError
from normsmith.layers import Whiten1d, Whiten2d
from normsmith.studies.names import name_of, named
from normsmith.studies.probes import activation_signals, renorm_activity
from normsmith.surgery.placement.search import hidden_activations
from normsmith.tasks import Task, example, forward_of

Value: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Edit:
    """One change to a fresh model or to the task's data, made by a module-level function.

    - of a model: `(model, task, **arguments) -> model`; the task is there for its batches and its forward, with which
      surgery traces a model;
    - of data: `(task, **arguments) -> task`, see `normsmith.studies.data_edits`.

    The function's name (see `normsmith.studies.names`) and the arguments enter the key of every trial of the arm, and
    travel to worker processes; hence no lambdas and no closures.
    """

    function: Callable[..., Any]
    arguments: tuple[tuple[str, Value], ...] = ()

    def spec(self) -> dict[str, object]:
        """The edit as JSON."""
        return {
            "edit": name_of(self.function),
            "arguments": dict(self.arguments),
        }


Probe: TypeAlias = Callable[[nn.Module, Task], dict[str, float]]
"""A measurement inside a network: names to numbers. Module-level functions, see `Edit`."""


@dataclass(frozen=True)
class Arm:
    """A name for readers, the edits that make the arm's model out of the task's, and what to measure inside it.

    `data` are edits of the task's data. Arms with the same edits and probes are one arm, whatever they are called:
    their trials are run once.
    """

    name: str = field(compare=False)
    edits: tuple[Edit, ...] = ()
    probes: tuple[Probe, ...] = (activation_signals,)
    data: tuple[Edit, ...] = ()

    def but(self, name: str, *edits: Edit, probes: tuple[Probe, ...] = ()) -> Arm:
        """The same arm with further edits and probes, under another name."""
        return replace(self, name=name, edits=self.edits + edits, probes=self.probes + probes)

    def on(self, name: str, *data: Edit) -> Arm:
        """The same arm with further edits of its data, under another name."""
        return replace(self, name=name, data=self.data + data)

    def called(self, name: str) -> Arm:
        """The same arm under another name."""
        return replace(self, name=name)

    def task(self, task: Task) -> Task:
        """The task with its data as this arm has them: `task` itself where there are no edits of data.

        Raises:
            StudyError: an edit cannot be made of these data, with the reason.
        """
        return _with_edited_data(task, self.data)

    def build(self, model: nn.Module, task: Task) -> nn.Module:
        """Apply the edits in order to `model`, a network of `task`, in place where an edit does so.

        `task` is the arm's own, which its method `task` returns.

        Raises:
            SurgeryError: an edit cannot be made on this model, with the reason.
        """
        for edit in self.edits:
            model = edit.function(model, task, **dict(edit.arguments))
        return model


@lru_cache(maxsize=16)
def _with_edited_data(task: Task, edits: tuple[Edit, ...]) -> Task:
    """One task for all trials with the same data, so that the batches it is evaluated on are collated once."""
    for edit in edits:
        task = edit.function(task, **dict(edit.arguments))
    return task


def edit(function: Callable[..., Any], **arguments: Value) -> Edit:
    """An `Edit` from keyword arguments, in a canonical order."""
    return Edit(function, tuple(sorted(arguments.items())))


@named("strip-norm")
def strip_norm(model: nn.Module, task: Task) -> nn.Module:
    """Remove every normalization layer."""
    return _applied(surgery.strip(model, **_traced_with(task)), "its norms cannot be taken out")


@named("strip-batch-norm")
def strip_batch_norm(model: nn.Module, task: Task) -> nn.Module:
    """Remove the batch norms, and no other norm."""
    plan = surgery.strip(model, only=_is_batch_norm, **_traced_with(task))
    return _applied(plan, "its batch norms cannot be taken out")


@named("insert-norm")
def insert_norm(model: nn.Module, task: Task, norm: str, where: str, **options: Any) -> nn.Module:
    """Put a norm before or after every activation of a model without one."""
    with _recurrence_named(model):
        plan = surgery.insert(model, norm, where, **_traced_with(task), **options)
        return _applied(plan, f"a norm cannot be put {where} its activations")


@named("insert-whitening")
def insert_whitening(model: nn.Module, task: Task, where: str, method: str, most: int) -> nn.Module:
    """Put whitening before or after every activation, over groups of channels as large as divides, `most` at most."""

    def make(features: int, layer: nn.Module) -> nn.Module:
        size = max(divisor for divisor in range(1, most + 1) if features % divisor == 0)
        kind: Any = Whiten2d if isinstance(layer, nn.Conv2d) else Whiten1d
        return kind(features, groups=features // size, method=method)  # type: ignore[no-any-return]

    with _recurrence_named(model):
        plan = surgery.insert(model, make, where, **_traced_with(task))
        return _applied(plan, f"whitening cannot be put {where} its activations")


def _there(paths: Sequence[str]) -> str:
    """How many activations there are, and where.

    >>> _there([]), _there(["2"]), _there(["act", "act"])
    ('are none', 'is one: 2', 'are 2: act, act')
    """
    if not paths:
        return "are none"
    return f"{'is one' if len(paths) == 1 else f'are {len(paths)}'}: {', '.join(map(path_text, paths))}"


@named("insert-dropout")
def insert_dropout(model: nn.Module, task: Task, share: float, where: str) -> nn.Module:
    """Put dropout after hidden activations: the "last" one, or all others ("between" layers with weights).

    Raises:
        StudyError: the network has fewer than two hidden activations that can be told apart.
    """
    graph = surgery.trace(model, example(task), forward=forward_of(task))
    paths = [event.path for event in hidden_activations(graph)]
    if len(set(paths)) < max(2, len(paths)):
        raise StudyError(
            "it puts dropout after two or more hidden activations that are modules, each called once, and there "
            f"{_there(paths)}"
        )
    chosen = paths[-1:] if where == "last" else paths[:-1]

    def make(features: int, layer: nn.Module) -> nn.Module:
        return nn.Dropout(share)

    return surgery.insert(model, make, "after", only=chosen, **_traced_with(task)).apply()


@named("swap-activation")
def swap_activation(model: nn.Module, task: Task, activation: str) -> nn.Module:
    """Replace every activation by another kind."""
    with _recurrence_named(model):
        plan = surgery.swap_activation(model, activation, **_traced_with(task))
        return _applied(plan, "its activations cannot be replaced")


@named("set-norms")
def set_norms(model: nn.Module, task: Task, **settings: Value) -> nn.Module:
    """Change settings, such as momentum or eps, of the batch norms that a model has."""
    for module in model.modules():
        if is_batch_norm(module):
            for name, value in settings.items():
                setattr(module, name, value)
    return model


@named("fix-affine")
def fix_affine(model: nn.Module, task: Task, weight: bool, bias: bool) -> nn.Module:
    """Keep γ (`weight`) and β (`bias`) of a model's batch norms at their initial 1 and 0, as if they were not there."""
    for module in model.modules():
        if is_batch_norm(module):
            for fixed, parameter in ((weight, module.weight), (bias, module.bias)):
                if fixed and isinstance(parameter, nn.Parameter):
                    parameter.requires_grad_(False)
    return model


@named("convert-norm")
def convert_norm(model: nn.Module, task: Task, to: str, **options: Any) -> nn.Module:
    """Convert the batch norms that a model has to another kind of norm, where they stand."""
    return surgery.convert(model, to, **options).apply()


@named("move-norm")
def move_norm(model: nn.Module, task: Task, where: str) -> nn.Module:
    """Move the batch norms that a model has "before" or "after" their activations: all for which that is possible."""
    return plan_of_move(model, task, where).apply(partial=True)


def plan_of_move(model: nn.Module, task: Task, where: str) -> surgery.Plan:
    """The plan that `move_norm` applies: it says which norms move, and why others stay."""
    return surgery.place(model, where, only=_is_batch_norm, **_traced_with(task))


def _applied(plan: surgery.Plan, cannot: str) -> nn.Module:
    """The model that a plan makes.

    Raises:
        SurgeryError: the plan cannot do everything: `cannot`, with each reason once.
    """
    reasons: dict[str, list[str]] = {}
    for refusal in plan.refusals:
        reasons.setdefault(refusal.reason, []).append(path_text(refusal.path))
    if reasons:
        said = "; ".join(f"{some(paths, most=1)}: {reason}" for reason, paths in reasons.items())
        raise SurgeryError(f"{cannot} ({said})")
    return plan.apply()


@contextmanager
def _recurrence_named(model: nn.Module) -> Iterator[None]:
    """Where surgery refuses a model with recurrent layers of torch, say that it is for these."""
    try:
        yield
    except SurgeryError as error:
        for path, module in model.named_modules():
            if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
                raise SurgeryError(
                    f"the activations of {path_text(path)} ({type(module).__name__}) are inside it, where this "
                    "question can change nothing"
                ) from error
        raise


def _traced_with(task: Task) -> dict[str, Any]:
    """The arguments with which surgery traces a task's network."""
    return {"batch": example(task), "forward": forward_of(task)}


def _is_batch_norm(path: str, module: nn.Module) -> bool:
    return is_batch_norm(module)


AS_IS = Arm("as is")


def network(activation: str | None, *, is_own: bool = False) -> Arm:
    """The task's network without norms, with its own activation (None, or the one that `is_own`) or another one."""
    name = "no norm" if activation is None else f"{activation}, no norm"
    swap = () if activation is None or is_own else (edit(swap_activation, activation=activation),)
    return Arm(name, (edit(strip_norm), *swap))


def normalized(
    activation: str | None,
    norm: str = "batch",
    where: str = "before",
    *,
    is_own: bool = False,
    **options: Value,
) -> Arm:
    """The network of `network` with `norm` before or after every activation, and none elsewhere."""
    label = {"batch": "batch norm", "renorm": "batch renorm", "layer": "layer norm", "group": "group norm"}[
        norm
    ]
    name = f"{label} {where} {activation or 'activation'}"
    probes = (renorm_activity,) if norm == "renorm" else ()
    plain = network(activation, is_own=is_own)
    return plain.but(name, edit(insert_norm, norm=norm, where=where, **options), probes=probes)
