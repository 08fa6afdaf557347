"""A plan in the making: what an operation collects while it looks at a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from normsmith.errors import SurgeryError
from normsmith.surgery.edits import ChildrenEdit, ParameterEdit
from normsmith.surgery.flow import Flow, Obstacle, Step, follow
from normsmith.surgery.kinds import is_activation
from normsmith.surgery.plan import Change, Plan, Remark

_LOOKED_FOR = "looked for modules such as nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU or nn.SiLU between layers"


@dataclass
class Draft:
    """Changes, refusals and edits of `model`, collected for an operation on its activations or its norms."""

    model: nn.Module
    title: str
    target: Literal["activation", "norm"]
    _changes: list[Change] = field(default_factory=list)
    _refusals: list[Remark] = field(default_factory=list)
    _kept: list[Remark] = field(default_factory=list)
    _biases: list[ParameterEdit] = field(default_factory=list)
    _replaced: dict[nn.Sequential, dict[str, list[nn.Module]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._flows, obstacles = follow(self.model)
        for obstacle in obstacles:
            if self._matters(obstacle):
                self.refuse(obstacle.path, obstacle.reason)
        self._paths = {id(m): path for path, m in self.model.named_modules()}
        self._uses = _count_uses(self.model)

    def _matters(self, obstacle: Obstacle) -> bool:
        """A forward that cannot be followed may hide an activation; a norm has weights and cannot hide."""
        return obstacle.kind == self.target or (obstacle.kind == "unknown" and self.target == "activation")

    def steps(self, wanted: Callable[[nn.Module], bool]) -> list[tuple[Flow, int, Step]]:
        """Every step whose module is wanted, in the order of the flows."""
        return [
            (flow, index, step)
            for flow in self._flows
            for index, step in enumerate(flow.steps)
            if wanted(step.module)
        ]

    def hidden_activations(self) -> list[tuple[Flow, int, Step]]:
        """Activations that layers with weights follow; the others are kept, as the network's output.

        Raises SurgeryError when there is none, nor any that is refused.
        """
        hidden = []
        for flow, index, step in self.steps(is_activation):
            if flow.is_hidden(index):
                hidden.append((flow, index, step))
            else:
                self.keep(step.path, f"{type(step.module).__name__} is the network's output")
        if not (hidden or self._refusals):
            raise SurgeryError(f"found no activation in {type(self.model).__name__}: {_LOOKED_FOR}")
        return hidden

    def uses(self, part: nn.Module | nn.Parameter) -> int:
        return self._uses[id(part)]

    def adopt(self, new: nn.Module) -> None:
        """Take note of a module made for this plan, which must be in no other place."""
        if self._uses[id(new)]:
            raise SurgeryError(
                f"norm must make a new module at each call, got the same {type(new).__name__} twice"
            )
        self._uses[id(new)] += 1

    def refuse(self, path: str, reason: str) -> None:
        self._refusals.append(Remark(path, reason))

    def keep(self, path: str, reason: str) -> None:
        self._kept.append(Remark(path, reason))

    def replace(self, step: Step, new: list[nn.Module], shown: str, why: str) -> None:
        self._changes.append(Change(step.path, str(step.module), shown, why))
        self._replaced.setdefault(step.parent, {})[step.name] = new

    def set_bias(self, step: Step, old: nn.Parameter | None, new: nn.Parameter | None, why: str) -> None:
        words = ["bias" if bias is not None else "no bias" for bias in (old, new)]
        self._changes.append(Change(f"{step.path}.bias", words[0], words[1], why))
        self._biases.append(ParameterEdit(step.module, "bias", old, new))

    def plan(self) -> Plan:
        children: list[ChildrenEdit] = []
        renamed: dict[str, str] = {}
        for sequence, replaced in self._replaced.items():
            edit, moved = _rebuilt(sequence, replaced)
            children.append(edit)
            path = self._paths[id(sequence)]
            prefix = f"{path}." if path else ""
            renamed |= {prefix + old: prefix + new for old, new in moved.items()}
        return Plan(
            self.title,
            self.model,
            tuple(self._changes),
            tuple(self._refusals),
            tuple(self._kept),
            renamed,
            (*self._biases, *children),
        )


def _rebuilt(
    sequence: nn.Sequential, replaced: Mapping[str, list[nn.Module]]
) -> tuple[ChildrenEdit, dict[str, str]]:
    """The edit that puts modules in the places of some children, and which children get another name.

    Children numbered 0, 1, 2, … are numbered again, as `nn.Sequential` itself does; others keep their names,
    and a norm beside one is named after it.
    """
    old = {name: sequence.get_submodule(name) for name in sequence._modules}
    numbered = list(old) == [str(number) for number in range(len(old))]
    new: dict[str, nn.Module] = {}
    moved: dict[str, str] = {}
    for name, child in old.items():
        modules = replaced.get(name, [child])
        for module in modules:
            if numbered:
                new_name = str(len(new))
            elif module is child or len(modules) == 1:
                new_name = name
            else:
                new_name = _free_name(f"{name}_norm", {*old, *new})
            new[new_name] = module
            if module is child and new_name != name:
                moved[name] = new_name
    return ChildrenEdit(sequence, old, new), moved


def _free_name(name: str, taken: set[str]) -> str:
    numbers = iter(range(2, len(taken) + 3))
    free = name
    while free in taken:
        free = f"{name}{next(numbers)}"
    return free


def _count_uses(model: nn.Module) -> Counter[int]:
    """How often each module is reached, and how many modules hold each parameter."""
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    uses.update(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    return uses
