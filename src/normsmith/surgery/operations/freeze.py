"""Freeze batch norms: their statistics, their affine, or both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from normsmith._choices import check_choice
from normsmith._torch import NormBase, buffers_of, children_of, parameters_of
from normsmith.anatomy.batch_norms import BatchNorm, selected_batch_norms
from normsmith.anatomy.broken_statistics import statistics_remarks
from normsmith.anatomy.describe import describe_layer
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.read_batch_norm import read_batch_norm
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.select import Only
from normsmith.layers import ConditionalNorm
from normsmith.layers.policy import Policy
from normsmith.layers.statistics import StatisticsBase
from normsmith.surgery.operations.convert import convert
from normsmith.surgery.plans.edits import AttributeEdit, Edit, ModuleEdit, RequireUnchanged
from normsmith.surgery.plans.operation import operation
from normsmith.surgery.plans.plan import Change, Plan
from normsmith.surgery.plans.verify import Expectation

_PINNED = Policy("running", False)


@operation("freeze")
def freeze(
    model: nn.Module,
    what: Literal["statistics", "affine", "both"] = "both",
    *,
    only: Only = None,
    first: int | None = None,
    last: int | None = None,
) -> Plan:
    """Plan to freeze the batch norms of a model, so that no `.train()` brings them back; `revert` does.

    - "statistics": training normalises by the running statistics, as evaluation does, and does not update them.
      normsmith's layers are pinned (`layer.freeze()`; `layer.unfreeze()` ends it). Torch's follow every
      `.train()`, so they become normsmith's, pinned: subclasses of torch's with the same keys in the state dict and
      the same parameters, so that `isinstance(layer, nn.BatchNorm2d)` holds and checkpoints and optimizers go on.
    - "affine": γ and β do not train: `requires_grad` is False, and a gradient they have is dropped, so that no
      optimizer moves them further, be it by weight decay or momentum. They stay in its groups with their state.
    - "both", as in detectron2's and torchvision's `FrozenBatchNorm2d`, which themselves are frozen already.

    Evaluation is the same. Of a model in `DistributedDataParallel` the affine cannot be frozen: it waits for the
    gradients of all parameters that it was made with.

    Args:
        only: patterns of paths such as "stage1.*", or a function (path, module) → bool.
        first, last: only the first or last so many of these, in the order of the model's modules.

    Raises:
        InputError: an unknown `what`, or first and last together.
        SurgeryError: there is no batch norm among what is selected.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8))
    >>> model[1].running_mean += 1
    >>> print(freeze(model, "statistics", first=1))
    freeze statistics: 1 change, 0 refusals
      1  nn.BatchNorm2d(8) → BatchNorm2d(8, frozen)  of normsmith, as torch's cannot be pinned
      outputs: the same in evaluation; in training: may differ
    >>> model = freeze(model, first=1).apply()
    >>> model.train()[1].policy.normalize_with, model[1].weight.requires_grad, isinstance(model[1], nn.BatchNorm2d)
    ('running', False, True)

    Source: pytorch#39674, pytorch#66073.
    """
    check_choice("what", what, ("statistics", "affine", "both"))
    locations = Locations(model)
    chosen = selected_batch_norms(locations, "freeze", only, first, last)
    statistics = {} if what == "affine" else _statistics(model, chosen, locations)
    possible = [norm for norm in chosen if norm not in statistics or not statistics[norm].refused]
    affine = {} if what == "statistics" else _affine(possible, locations)
    rows = {norm: _together([part[norm] for part in (statistics, affine) if norm in part]) for norm in chosen}
    read = [] if what == "affine" else [norm for norm in chosen if not rows[norm].refused]
    return _plan(f"freeze {_TITLES[what]}", model, locations, rows, statistics_remarks(locations, read))


_TITLES = {"statistics": "statistics", "affine": "affine", "both": "statistics and affine"}


@dataclass(frozen=True)
class _Step:
    """What happens to one norm: it becomes `after`, if that is another layer, by `edits`.

    `refused` or, where nothing is left to do, `kept` say why not.
    """

    after: str = ""
    why: str = ""
    edits: tuple[Edit, ...] = ()
    refused: str = ""
    kept: str = ""


@dataclass(frozen=True, eq=False)
class StopTraining(Edit):
    """A parameter does not train: it wants no gradient, and has none that an optimizer could still use."""

    parameter: nn.Parameter
    gradient: list[Tensor | None] = field(default_factory=list, init=False)

    def is_possible(self) -> bool:
        return self.parameter.requires_grad

    def is_undoable(self) -> bool:
        return not self.parameter.requires_grad

    def do(self) -> None:
        self.gradient[:] = [self.parameter.grad]
        self.parameter.requires_grad_(False)
        self.parameter.grad = None

    def undo(self) -> None:
        self.parameter.requires_grad_(True)
        if self.gradient:
            self.parameter.grad = self.gradient.pop()


def _statistics(
    model: nn.Module, chosen: Sequence[nn.Module], locations: Locations
) -> dict[nn.Module, _Step]:
    steps = {module: _by_hand(module, locations) or _pinned(module) for module in chosen}
    others = {module for module, step in steps.items() if step is None}
    if others:
        made = convert(model, "frozen", only=lambda _, module: module in others)
        edits = defaultdict[nn.Module, list[Edit]](list)
        for edit in made.edits:
            if isinstance(edit, ModuleEdit | RequireUnchanged):
                edits[edit.old if isinstance(edit, ModuleEdit) else edit.module].append(edit)
        changes = {change.path: change for change in made.changes}
        refused = {remark.path: remark.reason for remark in made.refusals}
        for module in others:
            path = locations.paths[module][0]
            if path in refused:
                steps[module] = _Step(refused=refused[path])
                continue
            change = changes[path]
            why = f"of normsmith, as {_owner(module)} cannot be pinned{_untrained(module)}"
            steps[module] = _Step(change.after, why, tuple(edits[module]))
    return {module: step for module, step in steps.items() if step is not None}


def _by_hand(module: nn.Module, locations: Locations) -> _Step | None:
    reason = locations.code.by_hand(module)
    return None if reason is None else _Step(refused=reason)


def _pinned(module: nn.Module) -> _Step | None:
    """What is to do where it is settled without a conversion."""
    norm = read_batch_norm(module)
    if isinstance(norm, Refusal):
        return _Step(refused=norm.reason)
    against = _without_statistics(norm)
    if against is not None:
        return _Step(refused=against)
    ours = isinstance(module, StatisticsBase)
    if (ours and module.pinned == _PINNED) or (not ours and norm.frozen):
        return _Step(kept="its statistics are frozen already")
    if not ours:
        return None
    why = "pinned to its running statistics" + _untrained(module)
    edit = AttributeEdit(module, "pinned", _PINNED)
    return _Step(f"{type(module).__name__}({module.num_features}, frozen)", why, (edit,))


def _without_statistics(norm: BatchNorm) -> str | None:
    if norm.lazy or norm.is_uninitialised:
        return "it has no statistics yet (lazy); run the model once"
    if norm.tensors["running_mean"] is None or norm.tensors["running_var"] is None:
        return "it has no running statistics (track_running_stats=False) to freeze to"
    return None


def _affine(chosen: Collection[nn.Module], locations: Locations) -> dict[nn.Module, _Step]:
    holders: dict[nn.Parameter, list[nn.Module]] = {}
    for module in locations.paths:
        for parameter in parameters_of(module).values():
            if parameter is not None:
                holders.setdefault(parameter, []).append(module)
    wrapped = {
        part for m in locations.paths if isinstance(m, DistributedDataParallel) for part in m.modules()
    }
    tables = {m: layer for m in chosen if isinstance(layer := locations.with_domains(m), ConditionalNorm)}
    together = {*chosen, *tables.values()}
    stopped: set[nn.Parameter] = set()  # norms may share one
    steps: dict[nn.Module, _Step] = {}
    for module in chosen:
        training = [p for p in _weights(tables.get(module, module)) if p.requires_grad]
        other = next((h for p in training for h in holders[p] if h not in together), None)
        if "parametrizations" in children_of(module):
            steps[module] = _Step(refused="its weight is parametrized; remove the parametrization first")
        elif not training:
            steps[module] = _Step(kept="it has no γ or β that trains")
        elif module in wrapped:
            reason = "DistributedDataParallel waits for the gradients of its γ and β; freeze before wrapping"
            steps[module] = _Step(refused=reason)
        elif other is not None:
            steps[module] = _Step(
                refused=f"its γ or β is that of {locations.paths[other][0]} too, which is not to freeze"
            )
        else:
            edits = tuple(StopTraining(p) for p in training if p not in stopped)
            stopped.update(training)
            steps[module] = _Step(why="γ and β do not train", edits=edits)
    return steps


def _together(steps: Sequence[_Step]) -> _Step:
    """Both steps of a norm, or none of them."""
    refused = dict.fromkeys(step.refused for step in steps if step.refused)
    if refused:
        return _Step(refused="; ".join(refused))
    changing = [step for step in steps if not step.kept]
    if not changing:
        return _Step(kept="; ".join(step.kept for step in steps))
    after = "".join(step.after for step in changing)
    why = "; ".join(step.why for step in changing)
    return _Step(after, why, tuple(edit for step in changing for edit in step.edits))


def _plan(
    title: str,
    model: nn.Module,
    locations: Locations,
    rows: Mapping[nn.Module, _Step],
    warnings: tuple[Remark, ...],
) -> Plan:
    def changes() -> Iterator[Change]:
        for module, step in rows.items():
            if not (step.refused or step.kept):
                path, *also = locations.paths[module]
                before = describe_layer(module)
                yield Change(path, before, step.after or f"{before}, γ and β fixed", step.why, tuple(also))

    first = {module: locations.paths[module][0] for module in rows}
    pinned = any(step.after for step in rows.values())
    return Plan(
        title,
        model,
        changes=tuple(changes()),
        refusals=tuple(Refusal(first[module], step.refused) for module, step in rows.items() if step.refused),
        kept=tuple(Remark(first[module], step.kept) for module, step in rows.items() if step.kept),
        edits=tuple(edit for step in rows.values() for edit in step.edits),
        expects=Expectation("same", "may differ" if pinned else "same"),
        warnings=warnings,
    )


def _weights(module: nn.Module) -> list[nn.Parameter]:
    held = parameters_of(module)
    names = ("weight", "bias") if isinstance(module, (NormBase, StatisticsBase)) else tuple(held)
    parameters = (held.get(name) for name in names)
    return [parameter for parameter in parameters if parameter is not None]


def _untrained(module: nn.Module) -> str:
    """A warning where there is nothing worth freezing yet."""
    mean, var = buffers_of(module).get("running_mean"), buffers_of(module).get("running_var")
    if mean is None or var is None or mean.is_meta or bool(mean.any()) or not bool((var == 1).all()):
        return ""
    return "; its running statistics are those it began with"


def _owner(module: nn.Module) -> str:
    kind = type(module)
    return "torch's" if kind.__module__.startswith("torch.nn.") else kind.__name__
