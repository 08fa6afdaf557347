"""Optimizers of a model that changes: groups and state stay with the parameters that stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from normsmith._text import count
from normsmith._torch import parameters_of
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery.plans.edits import Cut
from normsmith.surgery.plans.groups import Companions, Member, members


def check_own(optimizers: Sequence[Optimizer], model: nn.Module) -> None:
    """Raise InputError for what is no optimizer, or one that has none of a model's parameters: it trains another."""
    own = set(map(id, model.parameters()))
    for number, optimizer in enumerate(optimizers, 1):
        if not isinstance(optimizer, Optimizer):
            raise InputError(f"optimizer: expected Optimizers of torch, got {type(optimizer).__name__}")
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if own.isdisjoint(map(id, held)):
            which = "optimizer" if len(optimizers) == 1 else f"optimizer {number} of {len(optimizers)}"
            raise InputError(
                f"{which}: expected one that trains parameters of this {type(model).__name__}, got "
                f"{type(optimizer).__name__} with {count(len(held), 'parameter')}, none of them the model's; give the "
                "one that was made from model.parameters(), and make it anew if the model was copied after that"
            )


class Following:
    """Optimizers that follow a model through a change and back.

    It is made before the change. After the change `update` brings the optimizers in line with the model:

    - Parameters that are gone leave their group, and their state goes with them.
    - A new parameter joins the group of the one that it replaces (the same name in the same module, or in the
      module's replacement) or whose work it takes over (`joins`, new → old), or else that of the one that is most like
      it (`Companions`): vectors join vectors, in the part of the model with the same settings.
    - A successor (`successors`, old → new) takes over the state of the parameter it succeeds, or where it is a part of
      that one, the part of the state that is its own (`cuts`, new → how it is taken).
    - All others keep their place and their state.

    `restore` undoes that. What training has changed since in parameters that stayed, and in their state, stays.
    `joined` says of each parameter where there was none before whose group it has joined, by their names.
    """

    def __init__(self, optimizers: Iterable[Optimizer], model: nn.Module) -> None:
        self._before = _named(model)
        self._owners = _owners(model)
        self._optimizers = [_Groups(optimizer) for optimizer in optimizers]
        self.joined: dict[str, str] = {}

    def update(
        self,
        model: nn.Module,
        successors: Mapping[nn.Parameter, nn.Parameter],
        replaced: Mapping[nn.Module, nn.Module],
        joins: Mapping[nn.Parameter, nn.Parameter] | None = None,
        cuts: Mapping[nn.Parameter, Cut] | None = None,
    ) -> None:
        """Bring the optimizers in line with the model as it is now.

        Raises:
            SurgeryError: an optimizer cannot follow.
        """
        if not self._optimizers:
            return
        after, owners = _named(model), _owners(model)
        held, kept = set(map(id, self._before.values())), set(map(id, after.values()))
        gone = {id(p) for p in self._before.values() if id(p) not in kept}
        new = {name: p for name, p in after.items() if id(p) not in held}
        for groups in self._optimizers if gone or new else ():
            groups.check()
        if new:
            before = members(self._before, self._owners, self._group_of)
            by_id = {id(member.parameter): member for member in before.values()}
            companions = Companions(before.values(), (name.rpartition(".")[0] for name in after))
            taken_over = {id(one): by_id.get(id(other)) for one, other in (joins or {}).items()}
            for member in members(new, owners).values():
                owner = self._owners.get(member.name)
                takes_its_place = owner is not None and replaced.get(owner, owner) is owners[member.name]
                other = before[member.name] if takes_its_place else taken_over.get(id(member.parameter))
                if other is None or other.group is None:
                    other = companions.of(member)
                self._join(member, other, after)
        names_of = _by_parameter(self._before), _by_parameter(after)
        for groups in self._optimizers:
            groups.leave(gone, successors, cuts or {})
            groups.rename(*names_of)

    def is_restorable(self) -> bool:
        """Whether each optimizer still has the groups it was left with."""
        return all(groups.is_as_left() for groups in self._optimizers)

    def restore(self) -> None:
        """Undo `update`."""
        for groups in self._optimizers:
            groups.restore()
        self.joined = {}

    def _group_of(self, parameter: nn.Parameter) -> tuple[dict[str, Any], Optimizer] | None:
        """The group of a parameter and the optimizer that has it."""
        for groups in self._optimizers:
            if id(parameter) in groups.group_of:
                return groups.group_of[id(parameter)], groups.optimizer
        return None

    def _join(self, new: Member, other: Member | None, after: Mapping[str, nn.Parameter]) -> None:
        if other is None or self._group_of(new.parameter) is not None:  # it has several names
            return
        groups = next(groups for groups in self._optimizers if groups.optimizer is other.optimizer)
        names = list(after)
        earlier = [after[name] for name in reversed(names[: names.index(new.name)])]
        groups.insert(new.parameter, other.parameter, earlier)
        if other.name != new.name:
            self.joined[new.name] = other.name


class _Groups:
    """The groups and states of one optimizer, before and after."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        self._names = [list(group.get("param_names", ())) for group in optimizer.param_groups]
        self._left: list[list[nn.Parameter]] = self._groups
        self._dropped: dict[Tensor, Any] = {}
        self._successors: Mapping[nn.Parameter, nn.Parameter] = {}

    def check(self) -> None:
        if isinstance(self.optimizer, LBFGS):
            raise SurgeryError(
                "optimizer: expected one that keeps a state for each parameter, got LBFGS, whose history is of all "
                "parameters together; make it anew after the change"
            )

    def insert(self, new: nn.Parameter, beside: nn.Parameter, earlier: Iterable[nn.Parameter]) -> None:
        """Put a parameter into the group of `beside`: after the last one there that comes `earlier` in the model."""
        group = self.group_of[id(beside)]
        self.group_of[id(new)] = group
        places = {id(p): place for place, p in enumerate(group["params"])}
        before = next((p for p in earlier if id(p) in places), beside)
        group["params"].insert(places[id(before)] + 1, new)

    def leave(
        self,
        gone: set[int],
        successors: Mapping[nn.Parameter, nn.Parameter],
        cuts: Mapping[nn.Parameter, Cut],
    ) -> None:
        state = self.optimizer.state
        for group in self.optimizer.param_groups:
            group["params"][:] = [p for p in group["params"] if id(p) not in gone]
        self._dropped = {p: state.pop(p) for p in list(state) if id(p) in gone}
        self._successors = {old: new for old, new in successors.items() if old in self._dropped}
        for old, new in self._successors.items():
            if new not in cuts:
                state[new] = self._dropped[old]
            elif (part := _cut(self._dropped[old], old, cuts[new])) is not None:
                state[new] = part
        self._successors = {old: new for old, new in self._successors.items() if new not in cuts}
        self._left = [list(group["params"]) for group in self.optimizer.param_groups]

    def rename(self, before: Mapping[int, str], after: Mapping[int, str]) -> None:
        """Names that the optimizer was given with its parameters: those of the model follow it, others stay."""
        given = {
            id(p): name
            for params, names in zip(self._groups, self._names, strict=True)
            for p, name in zip(params, names, strict=False)
        }
        stay = {key: name for key, name in given.items() if name != before.get(key)}
        for group, names in zip(self.optimizer.param_groups, self._names, strict=True):
            if names:
                group["param_names"] = [stay.get(id(p)) or after[id(p)] for p in group["params"]]

    def is_as_left(self) -> bool:
        groups = [group["params"] for group in self.optimizer.param_groups]
        return [list(map(id, group)) for group in groups] == [list(map(id, group)) for group in self._left]

    def restore(self) -> None:
        state = self.optimizer.state
        for old, new in self._successors.items():
            self._dropped[old] = state.get(new, self._dropped[old])
        held = {id(p) for group in self._groups for p in group}
        for p in (p for group in self._left for p in group if id(p) not in held):
            state.pop(p, None)
        for group, params in zip(self.optimizer.param_groups, self._groups, strict=True):
            group["params"][:] = params
        for group, names in zip(self.optimizer.param_groups, self._names, strict=True):
            if names:
                group["param_names"] = list(names)
        state.update(self._dropped)
        self._left, self._dropped, self._successors = self._groups, {}, {}


def _cut(state: Any, parameter: nn.Parameter, cut: Cut) -> dict[str, Any] | None:
    """The part of a parameter's state that belongs to a part of it; None where it cannot be told.

    Averages of the parameter's shape are cut as it is, numbers stay; of anything else, as factored averages, the new
    parameter starts without a state.
    """
    part: dict[str, Any] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            part[name] = value.clone() if isinstance(value, Tensor) else value
        elif value.shape == parameter.shape:
            part[name] = cut(value).clone()
        else:
            return None
    return part


def _named(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters(remove_duplicate=False))


def _by_parameter(names: Mapping[str, nn.Parameter]) -> dict[int, str]:
    """The first name of each."""
    return {id(parameter): name for name, parameter in reversed(list(names.items()))}


def _owners(model: nn.Module) -> dict[str, nn.Module]:
    """The module that holds each parameter, by the parameter's name."""
    return {
        f"{path}.{name}" if path else name: module
        for path, module in model.named_modules(remove_duplicate=False)
        for name, parameter in parameters_of(module).items()
        if parameter is not None
    }
