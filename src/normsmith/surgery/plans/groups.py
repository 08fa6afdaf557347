"""Which parameter of a model a new one is most like, so that an optimizer treats both alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from normsmith.anatomy.batch_norms import is_batch_norm
from normsmith.anatomy.kinds import is_norm

Kind = Literal["matrix", "norm's weight", "norm's bias", "bias"]
_MOST_ALIKE: dict[Kind, tuple[Kind, ...]] = {
    "matrix": ("matrix",),
    "norm's weight": ("norm's weight", "norm's bias", "bias"),
    "norm's bias": ("norm's bias", "bias", "norm's weight"),
    "bias": ("bias", "norm's bias", "norm's weight"),
}
"""For each kind of parameter the kinds that users put into one group with it, the most alike first."""


@dataclass(frozen=True, eq=False)
class Member:
    """A parameter of a model, by its name; `group` is its group in `optimizer`, both None where none trains it."""

    name: str
    parameter: nn.Parameter
    kind: Kind
    group: dict[str, Any] | None = None
    optimizer: Optimizer | None = None

    @property
    def module(self) -> str:
        """The path of the module that holds it."""
        return self.name.rpartition(".")[0]


def members(
    named: Mapping[str, nn.Parameter],
    owners: Mapping[str, nn.Module],
    group_of: Callable[[nn.Parameter], tuple[dict[str, Any], Optimizer] | None] = lambda _: None,
) -> dict[str, Member]:
    """The parameters of a model by name, each with its kind and its group."""
    return {
        name: Member(name, parameter, _kind(name, parameter, owners[name]), *(group_of(parameter) or ()))
        for name, parameter in named.items()
    }


class Companions:
    """Finds for a new parameter one that is in an optimizer's group, whose group it is to join.

    Groups part a model in two ways: by kind (matrices decay, vectors do not) and by region (layers with a learning
    rate of their own). So a new vector joins a vector, most like it in kind and nearest, of its own region: one whose
    nearest matrix is in the group of the new one's nearest matrix. Where this region has no vector, it joins a group
    of vectors alone with the settings of the matrix but for the weight decay, or of an optimizer for vectors beside
    that of the matrices; else the matrix itself.
    """

    def __init__(self, before: Iterable[Member], after: Iterable[str]) -> None:
        self._before = list(before)
        self._positions = _positions((member.module for member in self._before), after)
        self._partners: dict[str, Member | None] = {}

    def of(self, new: Member) -> Member | None:
        """The parameter whose group `new` joins; None where no parameter of the model has a group.

        A parameter that does not train joins none where its layer is in none.
        """
        if not new.parameter.requires_grad:
            beside = next(self._nearest(new, self._before), None)
            if beside is None or beside.group is None:
                return None
        matrix = self._partner(new)
        if new.kind == "matrix" or matrix is None:
            return matrix or next(self._nearest(new, self._grouped), None)
        for is_fitting in (_is_same_region, _is_same_settings, _is_same_pair_of_optimizers):
            for kind in _MOST_ALIKE[new.kind]:
                for member in self._nearest(new, self._of_kind[kind]):
                    partner = self._partner(member)
                    if partner is not None and is_fitting(member, partner, matrix):
                        return member
        return matrix

    @cached_property
    def _grouped(self) -> list[Member]:
        return [member for member in self._before if member.group is not None]

    @cached_property
    def _of_kind(self) -> Mapping[Kind, list[Member]]:
        kinds = defaultdict[Kind, list[Member]](list)
        for member in self._grouped:
            kinds[member.kind].append(member)
        return kinds

    def _partner(self, member: Member) -> Member | None:
        """The matrix that is nearest to a parameter; the same for all parameters of a module."""
        if member.module not in self._partners:
            self._partners[member.module] = next(self._nearest(member, self._of_kind["matrix"]), None)
        return self._partners[member.module]

    def _nearest(self, member: Member, others: Iterable[Member]) -> Iterator[Member]:
        """Others, those first that are in the same module, then in the innermost module that holds both."""
        path, position = member.module.split("."), self._positions[member.module]

        def distance(other: Member) -> tuple[int, int, bool]:
            shared = 0
            for one, theirs in zip(path, other.module.split("."), strict=False):
                if one != theirs:
                    break
                shared += 1
            away = self._positions[other.module] - position
            return -shared, abs(away), away > 0

        yield from sorted(others, key=distance)


def _is_same_region(member: Member, partner: Member, matrix: Member) -> bool:
    """Whether matrices of one group surround both."""
    return partner.group is matrix.group


def _is_same_settings(member: Member, partner: Member, matrix: Member) -> bool:
    """Whether a group of vectors alone differs from that of the matrix by its weight decay at most."""
    return _has_vectors_alone(member) and _settings(member) == _settings(matrix)


def _is_same_pair_of_optimizers(member: Member, partner: Member, matrix: Member) -> bool:
    """Whether one optimizer has the vectors, and another one the matrices of both."""
    return (
        _has_vectors_alone(member)
        and member.optimizer is not matrix.optimizer
        and partner.optimizer is matrix.optimizer
    )


def _has_vectors_alone(member: Member) -> bool:
    assert member.group is not None
    return all(map(is_vector, member.group["params"]))


def _settings(member: Member) -> tuple[Optimizer | None, dict[str, Any]]:
    assert member.group is not None
    apart = {"params", "param_names", "name", "weight_decay"}
    return member.optimizer, {name: value for name, value in member.group.items() if name not in apart}


def is_vector(parameter: nn.Parameter) -> bool:
    """Whether a parameter has one dimension at most, as biases and the weights of norms have."""
    return is_lazy(parameter) or parameter.dim() < 2


def _kind(name: str, parameter: nn.Parameter, owner: nn.Module) -> Kind:
    if not is_vector(parameter):
        return "matrix"
    if not (is_norm(owner) or is_batch_norm(owner)):
        return "bias"
    return "norm's bias" if name.rpartition(".")[2] == "bias" else "norm's weight"


def _positions(before: Iterable[str], after: Iterable[str]) -> dict[str, int]:
    """The order of modules that are there before or after a change, new ones right after those that they follow."""
    known, new = dict.fromkeys(before), defaultdict[str | None, list[str]](list)
    last = None
    for path in dict.fromkeys(after):
        if path in known:
            last = path
        else:
            new[last].append(path)
    order = new[None] + [path for place in known for path in (place, *new[place])]
    return {path: position for position, path in enumerate(order)}
