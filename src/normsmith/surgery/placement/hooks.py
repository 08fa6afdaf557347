"""A norm on a layer of anybody's: a child of it, called behind it or in front of it by a hook."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from normsmith.surgery.placement.sequential import put_back
from normsmith.surgery.plans.edits import Edit

Side = Literal["behind", "in front"]


@dataclass(frozen=True)
class Attached:
    """The hook: applies the child `name` of the module it is called for.

    The child is looked up at each call, so that what takes its place (a converted, frozen or folded norm) is called
    instead; the hook holds no module and goes along with copies and pickles. `channels_last`: (N, …, C).
    """

    name: str
    channels_last: bool

    def normed(self, module: nn.Module, x: Any) -> Any:
        """x normalised: a tensor, a packed sequence, or the first of a tuple, as recurrent layers return."""
        if isinstance(x, PackedSequence):
            return x._replace(data=module._modules[self.name](x.data))  # type: ignore[misc]
        if isinstance(x, tuple):
            return (self.normed(module, x[0]), *x[1:])
        norm: Any = module._modules[self.name]
        if self.channels_last and not isinstance(norm, (nn.LayerNorm, nn.RMSNorm)):
            return norm(x.movedim(-1, 1)).movedim(1, -1)
        return norm(x)


class Behind(Attached):
    """Applies the child to what the module puts out."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """As a forward hook."""
        return self.normed(module, output)


class InFront(Attached):
    """Applies the child to the module's first argument."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """As a forward pre-hook with keywords."""
        if args:
            return (self.normed(module, args[0]), *args[1:]), kwargs
        first = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        return args, {**kwargs, first: self.normed(module, kwargs[first])}


class AttachEdit(Edit):
    """Attach a norm to a module, as a child with a hook; no key of the state dict but the norm's appears."""

    def __init__(
        self, host: nn.Module, name: str, norm: nn.Module, side: Side, *, channels_last: bool
    ) -> None:
        self.host, self.name, self.norm = host, name, norm
        self._hook = (Behind if side == "behind" else InFront)(name, channels_last)
        self._handle: RemovableHandle | None = None

    def is_possible(self) -> bool:
        return not hasattr(self.host, self.name)

    def is_undoable(self) -> bool:
        return self.host._modules.get(self.name) is self.norm and self._hook in hooks(self.host).values()

    def do(self) -> None:
        self.host._modules[self.name] = self.norm
        if isinstance(self._hook, InFront):
            self._handle = self.host.register_forward_pre_hook(self._hook, with_kwargs=True)
        else:
            self._handle = self.host.register_forward_hook(self._hook)
        forget_compiled()

    def undo(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = None
        self.host._modules.pop(self.name, None)
        forget_compiled()

    def touches(self) -> Iterable[nn.Module]:
        return (self.host,)


class DetachEdit(Edit):
    """Take an attached norm away again, with its hook."""

    def __init__(self, host: nn.Module, name: str) -> None:
        self.host, self.name = host, name
        self.norm = host._modules[name]
        self._children, self._groups = dict(host._modules), _Hooks(host)
        self._key = next(key for key, hook in hooks(host).items() if hook.name == name)

    def is_possible(self) -> bool:
        return self.host._modules.get(self.name) is self.norm and self._key in hooks(self.host)

    def is_undoable(self) -> bool:
        return not hasattr(self.host, self.name) and self._key not in hooks(self.host)

    def do(self) -> None:
        self._children, self._groups = dict(self.host._modules), _Hooks(self.host)
        del self.host._modules[self.name]
        self._groups.drop(self._key)
        forget_compiled()

    def undo(self) -> None:
        put_back(self.host._modules, self._children, self.name)
        self._groups.restore(self._key)
        forget_compiled()

    def touches(self) -> Iterable[nn.Module]:
        return (self.host,)


class _Hooks:
    """The forward hooks of a module, as they are."""

    def __init__(self, module: nn.Module) -> None:
        found: list[Any] = [
            vars(module)[name]
            for name in ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
        ]
        self._saved = [(group, dict(group)) for group in found]

    def drop(self, key: int) -> None:
        for group, _ in self._saved:
            group.pop(key, None)

    def restore(self, key: int) -> None:
        for group, entries in self._saved:
            put_back(group, entries, key)


def hooks(module: nn.Module) -> dict[int, Attached]:
    """The hooks by which norms are attached to a module.

    >>> layer = nn.Linear(2, 2)
    >>> AttachEdit(layer, "norm", nn.LayerNorm(2), "behind", channels_last=True).do()
    >>> [hook.name for hook in hooks(layer).values()]
    ['norm']
    """
    held: tuple[tuple[int, Any], ...] = (*module._forward_pre_hooks.items(), *module._forward_hooks.items())
    return {key: hook for key, hook in held if isinstance(hook, Attached)}


def called(module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What `forward(*args, **kwargs)` gives with the norms that are attached to a module."""
    around = hooks(module).values()
    for hook in around:
        if isinstance(hook, InFront):
            args, kwargs = hook(module, args, kwargs)
    found = forward(*args, **kwargs)
    for hook in around:
        if isinstance(hook, Behind):
            found = hook(module, args, found)
    return found


def forget_compiled() -> None:
    """Compiled forwards do not look whether a module got hooks: they are compiled again."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
