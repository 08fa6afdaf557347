"""A plan: what an operation would do to a model, before it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from normsmith.errors import SurgeryError


@dataclass(frozen=True)
class Change:
    """One thing that a plan does: at `path` (named as before the change), `before` becomes `after`."""

    path: str
    before: str
    after: str
    why: str


@dataclass(frozen=True)
class Remark:
    """Something that a plan leaves as it is, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class ChildrenEdit:
    """Give a Sequential other children."""

    sequence: nn.Sequential
    old: Mapping[str, nn.Module]
    new: Mapping[str, nn.Module]

    def is_possible(self) -> bool:
        return self._children() == dict(self.old)

    def do(self) -> None:
        self._become(self.new)

    def undo(self) -> None:
        self._become(self.old)

    def _children(self) -> dict[str, nn.Module]:
        return {name: self.sequence.get_submodule(name) for name in self.sequence._modules}

    def _become(self, children: Mapping[str, nn.Module]) -> None:
        for name in self._children():
            delattr(self.sequence, name)
        for name, child in children.items():
            self.sequence.add_module(name, child)


@dataclass(frozen=True)
class BiasEdit:
    """Give a layer another bias, or none; its weight stays the same tensor."""

    layer: nn.Module
    old: nn.Parameter | None
    new: nn.Parameter | None

    def is_possible(self) -> bool:
        return self.layer.bias is self.old

    def do(self) -> None:
        self.layer.register_parameter("bias", self.new)

    def undo(self) -> None:
        self.layer.register_parameter("bias", self.old)


@dataclass(eq=False)
class Plan:
    """What an operation would do to `model`: printing it is the dry run, `apply` does it.

    - `changes`: what is replaced, inserted or removed, and why.
    - `refusals`: what the operation should have changed and cannot, and why; a plan with refusals is not
      applied.
    - `kept`: what was looked at and rightly stays, and why.
    - `renamed`: children of a numbered `nn.Sequential` that get another number, old path → new path; keys of
      the state dict under them change with them.

    >>> from normsmith.surgery import swap_activation
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> print(swap_activation(model, "tanh"))
    tanh as activation: 1 change, 0 refusals
      1  ReLU() → Tanh()  asked for
    """

    title: str
    model: nn.Module
    changes: tuple[Change, ...] = ()
    refusals: tuple[Remark, ...] = ()
    kept: tuple[Remark, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    edits: tuple[ChildrenEdit | BiasEdit, ...] = field(default=(), repr=False)
    _applied: bool = field(default=False, init=False, repr=False)

    def apply(self) -> nn.Module:
        """Change the model in place, all or nothing, and return it.

        Weights stay the same tensors; no random number is drawn. Raises SurgeryError, with the model
        untouched, when there are refusals, when the plan was applied before, or when the model changed since
        it was made.
        """
        if self.refusals:
            listed = "; ".join(f"{_shown(refusal.path)}: {refusal.reason}" for refusal in self.refusals)
            raise SurgeryError(f"cannot do everything of '{self.title}': {listed}")
        if self._applied:
            raise SurgeryError(f"the plan '{self.title}' was applied already; make a new one")
        if not all(edit.is_possible() for edit in self.edits):
            raise SurgeryError(f"the model changed after the plan '{self.title}' was made; make a new one")
        done: list[ChildrenEdit | BiasEdit] = []
        try:
            for edit in self.edits:
                done.append(edit)
                edit.do()
        except BaseException:
            for edit in reversed(done):
                edit.undo()
            raise
        self._applied = True
        return self.model

    def __str__(self) -> str:
        changes, refusals = len(self.changes), len(self.refusals)
        head = (
            f"{self.title}: {changes} change{'s' * (changes != 1)}, {refusals} refusal{'s' * (refusals != 1)}"
        )
        rows = [(_shown(c.path), f"{c.before} → {c.after}", c.why) for c in self.changes]
        rows += [(_shown(remark.path), "refused", remark.reason) for remark in self.refusals]
        rows += [(_shown(remark.path), "kept", remark.reason) for remark in self.kept]
        rows += [(old, f"renamed {new}", "") for old, new in self.renamed.items()]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
        lines = [f"  {path:<{widths[0]}}  {what:<{widths[1]}}  {why}".rstrip() for path, what, why in rows]
        return "\n".join([head, *lines])


def _shown(path: str) -> str:
    return path or "(model)"
