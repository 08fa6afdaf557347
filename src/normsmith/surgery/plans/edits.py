"""The steps that a plan takes: each can be done if the model is as it was, and undone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normsmith._torch import buffers_of, children_of, hand_over_hooks, parameters_of

_MISSING: Any = object()

Cut = Callable[[Tensor], Tensor]
"""Takes out of a tensor of an old parameter's shape what belongs to the new parameter, which is a part of it."""


class Edit:
    """One step of a plan. `do` and `undo` are each other's inverse; a failing `do` is undone as well."""

    def is_possible(self) -> bool:
        """Whether the model is what it was when the edit was planned."""
        raise NotImplementedError

    def is_undoable(self) -> bool:
        """Whether the model is what `do` left."""
        raise NotImplementedError

    def do(self) -> None:
        """Change the model."""
        raise NotImplementedError

    def undo(self) -> None:
        """Change it back, also after a `do` that was interrupted half way."""
        raise NotImplementedError

    def replaced(self) -> Mapping[nn.Module, nn.Module]:
        """The modules that `do` replaces, old → new."""
        return {}

    def successors(self) -> Mapping[nn.Parameter, nn.Parameter]:
        """The parameters whose optimizer state another parameter takes over, old → new."""
        return {}

    def cuts(self) -> Mapping[nn.Parameter, Cut]:
        """For new parameters that are parts of those that they succeed: how such a part is taken of a tensor."""
        return {}

    def joins(self) -> Mapping[nn.Parameter, nn.Parameter]:
        """New parameters that do what others did, new → old: an optimizer has both in one group."""
        return {}

    def touches(self) -> Iterable[nn.Module]:
        """Modules that `do` writes to, which must still be in the model: a change of others would have no effect."""
        return ()


@dataclass(frozen=True, eq=False)
class ModuleEdit(Edit):
    """Put a module in another's place in all its holders, so that a shared module stays shared.

    The new one takes over the old one's mode and hooks (handles that users hold go on working) and the tensors
    that both hold when the edit is planned; `undo` gives them back as they are then, so training in between is
    kept. Norms that hang on them by hooks are children, which must be those that were there when the edit was planned
    whenever it is done or undone.
    """

    holders: tuple[tuple[nn.Module, str], ...]
    """Every module that holds the old one as a child, with the child's name."""
    old: nn.Module
    new: nn.Module
    inner: Mapping[nn.Module, nn.Module] = field(default_factory=dict)
    """Of the old and the new one that whose tensors are not its own, with the part of it that holds them."""
    carries: tuple[str, ...] = field(init=False)
    """Names of the parameters and buffers that are the same tensor in both."""
    _children: Mapping[nn.Module, Mapping[str, nn.Module | None]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        old, new = self._tensors(self.old), self._tensors(self.new)
        same = tuple(name for name, tensor in new.items() if tensor is not None and old.get(name) is tensor)
        object.__setattr__(self, "carries", same)
        children = {module: dict(children_of(module)) for module in (self.old, self.new)}
        object.__setattr__(self, "_children", children)

    def is_possible(self) -> bool:
        return self._stands(self.old) and all(
            self._tensors(self.old)[name] is self._tensors(self.new)[name] for name in self.carries
        )

    def is_undoable(self) -> bool:
        return self._stands(self.new)

    def do(self) -> None:
        self._hand_over(self.old, self.new)

    def undo(self) -> None:
        self._hand_over(self.new, self.old)

    def replaced(self) -> Mapping[nn.Module, nn.Module]:
        return {self.old: self.new}

    def touches(self) -> Iterable[nn.Module]:
        return (parent for parent, _ in self.holders)

    def _stands(self, module: nn.Module) -> bool:
        same = children_of(module) == self._children[module]
        return same and all(children_of(parent).get(name) is module for parent, name in self.holders)

    def _tensors(self, module: nn.Module) -> dict[str, Tensor | None]:
        return _tensors(self.inner.get(module, module))

    def _hand_over(self, current: nn.Module, successor: nn.Module) -> None:
        for part in successor.modules() if successor in self.inner else (successor,):
            part.training = current.training
        holder = self.inner.get(successor, successor)
        for name in self.carries:
            for group in (parameters_of(holder), buffers_of(holder)):
                if name in group:
                    group[name] = self._tensors(current)[name]
        hand_over_hooks(current, successor)
        for parent, name in self.holders:
            children_of(parent)[name] = successor


@dataclass(frozen=True, eq=False)
class ParameterEdit(Edit):
    """Give a module another parameter, or None, under a name it has.

    - `keeps_state`: what an optimizer knows of the old one holds for the new one.
    - `takes_over`: where there was none, a parameter of another module whose work the new one does, as a bias does
      that of β; it joins the group of that one.
    - `cut`: where the new one is a part of the old one, how it is taken: the optimizer's state is cut in the same way.
    """

    module: nn.Module
    name: str
    old: nn.Parameter | None
    new: nn.Parameter | None
    keeps_state: bool = False
    takes_over: nn.Parameter | None = None
    cut: Cut | None = None
    _kinds: frozenset[tuple[torch.dtype, torch.device]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kinds", _kinds(self.module.parameters(recurse=False)))

    def is_possible(self) -> bool:
        fits = self.new is None or _kinds(self.module.parameters(recurse=False)) == self._kinds
        return fits and parameters_of(self.module).get(self.name, _MISSING) is self.old

    def is_undoable(self) -> bool:
        return parameters_of(self.module).get(self.name, _MISSING) is self.new

    def do(self) -> None:
        self.module.register_parameter(self.name, self.new)

    def undo(self) -> None:
        self.module.register_parameter(self.name, self.old)

    def successors(self) -> Mapping[nn.Parameter, nn.Parameter]:
        if not self.keeps_state or self.old is None or self.new is None:
            return {}
        return {self.old: self.new}

    def cuts(self) -> Mapping[nn.Parameter, Cut]:
        return {} if self.cut is None or self.new is None else {self.new: self.cut}

    def joins(self) -> Mapping[nn.Parameter, nn.Parameter]:
        return {} if self.takes_over is None or self.new is None else {self.new: self.takes_over}

    def touches(self) -> Iterable[nn.Module]:
        return (self.module,)


@dataclass(frozen=True, eq=False)
class ValueEdit(Edit):
    """Write other values into a module's buffer or parameter, which stays the same tensor; `undo` writes the old ones.

    The tensor is looked up each time: `module.double()` and the like give a module other buffers.
    """

    module: nn.Module
    name: str
    new: Tensor
    old: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "old", self._tensor.detach().clone())

    def is_possible(self) -> bool:
        return _same_bits(_tensors(self.module).get(self.name), self.old)

    def is_undoable(self) -> bool:
        tensor = _tensors(self.module).get(self.name)
        return tensor is not None and tensor.shape == self.old.shape

    def do(self) -> None:
        with torch.no_grad():
            self._tensor.copy_(self.new)

    def undo(self) -> None:
        with torch.no_grad():
            self._tensor.copy_(self.old)

    def touches(self) -> Iterable[nn.Module]:
        return (self.module,)

    @property
    def _tensor(self) -> Tensor:
        tensor = _tensors(self.module)[self.name]
        assert tensor is not None  # as planned, and as `is_possible` and `is_undoable` have seen
        return tensor


@dataclass(frozen=True, eq=False)
class BufferEdit(Edit):
    """Give a module another buffer under a name it has, as one of another shape."""

    module: nn.Module
    name: str
    old: Tensor
    new: Tensor

    def is_possible(self) -> bool:
        return buffers_of(self.module).get(self.name) is self.old

    def is_undoable(self) -> bool:
        return buffers_of(self.module).get(self.name) is self.new

    def do(self) -> None:
        buffers_of(self.module)[self.name] = self.new

    def undo(self) -> None:
        buffers_of(self.module)[self.name] = self.old

    def touches(self) -> Iterable[nn.Module]:
        return (self.module,)


@dataclass(frozen=True, eq=False)
class AttributeEdit(Edit):
    """Set a plain attribute (a setting, a mode, `requires_grad`) of a module or tensor."""

    owner: nn.Module | Tensor
    name: str
    new: Any
    old: Any = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "old", getattr(self.owner, self.name))

    def is_possible(self) -> bool:
        return _same(getattr(self.owner, self.name), self.old)

    def is_undoable(self) -> bool:
        return _same(getattr(self.owner, self.name), self.new)

    def do(self) -> None:
        setattr(self.owner, self.name, self.new)

    def undo(self) -> None:
        setattr(self.owner, self.name, self.old)

    def touches(self) -> Iterable[nn.Module]:
        return (self.owner,) if isinstance(self.owner, nn.Module) else ()


class FollowMode(Edit):
    """A new module takes the mode of a layer; the plan made it with the layer's dtype and device."""

    def __init__(self, layer: nn.Module, new: nn.Module) -> None:
        self.layer, self.new = layer, new
        self._kinds, self._mode = _kinds(layer.parameters()), new.training

    def is_possible(self) -> bool:
        return _kinds(self.layer.parameters()) == self._kinds

    def is_undoable(self) -> bool:
        return True

    def do(self) -> None:
        self.new.train(self.layer.training)

    def undo(self) -> None:
        self.new.train(self._mode)


class RequireUnchanged(Edit):
    """Changes nothing, and is possible only while a module's tensors hold the values that other edits computed from.

    `names`: which of its tensors; by default all of floating point.
    """

    def __init__(self, module: nn.Module, names: Iterable[str] | None = None) -> None:
        self.module = module
        held = _tensors(module)
        self._values = {
            name: None if tensor is None else tensor.detach().clone()
            for name in (held if names is None else names)
            if (tensor := held.get(name)) is None or (tensor.is_floating_point() and not is_lazy(tensor))
        }

    def is_possible(self) -> bool:
        held = _tensors(self.module)
        return all(_same_bits(held.get(name), value) for name, value in self._values.items())

    def is_undoable(self) -> bool:
        return True

    def do(self) -> None:
        pass

    def undo(self) -> None:
        pass


def do_all(edits: Iterable[Edit]) -> None:
    """Do edits in order, or none of them: an exception, an interrupt too, leaves everything as it was."""
    begun: list[Edit] = []
    try:
        for edit in edits:
            begun.append(edit)
            edit.do()
    except BaseException:
        undo_all(begun)
        raise


@contextmanager
def done(edits: Sequence[Edit]) -> Iterator[None]:
    """A block within which edits are done; they are undone when it ends, whatever happens."""
    do_all(edits)
    try:
        yield
    finally:
        undo_all(edits)


def undo_all(edits: Iterable[Edit]) -> None:
    """Undo edits, the last one first."""
    for edit in reversed(list(edits)):
        edit.undo()


def _tensors(module: nn.Module) -> dict[str, Tensor | None]:
    return {**parameters_of(module), **buffers_of(module)}


def _kinds(parameters: Iterable[nn.Parameter]) -> frozenset[tuple[torch.dtype, torch.device]]:
    """The dtypes and devices of parameters, which new tensors beside them must have too."""
    return frozenset((p.dtype, p.device) for p in parameters)


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and bool(one == other))


def _same_bits(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors hold the same values, NaN at the same places, with one dtype, device and shape."""
    if one is None or other is None:
        return one is other
    if (one.dtype, one.device, one.shape) != (other.dtype, other.device, other.shape):
        return False
    if one.is_meta:
        return True
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
