"""Norms that hooks apply before or after anybody's layer, recognised wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from normsmith._torch import children_of

Side = Literal["before", "after"]
"""Whether a norm is applied before a module, to its first argument, or after it, to its output."""


@dataclass(frozen=True)
class Attached:
    """A hook of a module that applies the module's child `name` to a tensor.

    The child is looked up at each call, so that what replaces it (a converted, frozen or folded norm) is called from
    then on; the hook holds no module, so copies and pickles of the module work. `channels_last`: the tensor's
    shape is (N, …, C).
    """

    name: str
    channels_last: bool

    def normed(self, module: nn.Module, x: Any) -> Any:
        """x normalised: a tensor, a packed sequence, or the first of a tuple, as recurrent layers return."""
        if isinstance(x, PackedSequence):
            return x._replace(data=children_of(module)[self.name](x.data))  # type: ignore[misc]
        if isinstance(x, tuple):
            return (self.normed(module, x[0]), *x[1:])
        norm: Any = children_of(module)[self.name]
        if self.channels_last and not isinstance(norm, (nn.LayerNorm, nn.RMSNorm)):
            return norm(x.movedim(-1, 1)).movedim(1, -1)
        return norm(x)


class After(Attached):
    """Applies the child to the module's output."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """As a forward hook."""
        return self.normed(module, output)


class Before(Attached):
    """Applies the child to the module's first argument."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """As a forward pre-hook with keywords."""
        if args:
            return (self.normed(module, args[0]), *args[1:]), kwargs
        first = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        return args, {**kwargs, first: self.normed(module, kwargs[first])}


def hooks(module: nn.Module) -> dict[int, Attached]:
    """The hooks by which norms are attached to a module.

    >>> layer = nn.Linear(2, 2)
    >>> layer.norm = nn.LayerNorm(2)
    >>> _ = layer.register_forward_hook(After("norm", channels_last=True))
    >>> [hook.name for hook in hooks(layer).values()]
    ['norm']
    """
    held: tuple[tuple[int, Any], ...] = (*module._forward_pre_hooks.items(), *module._forward_hooks.items())
    return {key: hook for key, hook in held if isinstance(hook, Attached)}


def called(module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What `forward(*args, **kwargs)` gives with the norms that are attached to a module."""
    around = hooks(module).values()
    for hook in around:
        if isinstance(hook, Before):
            args, kwargs = hook(module, args, kwargs)
    output = forward(*args, **kwargs)
    for hook in around:
        if isinstance(hook, After):
            output = hook(module, args, output)
    return output


def is_attached(parent: nn.Module, name: str) -> bool:
    """Whether a child of a module is a norm that a hook applies."""
    return any(hook.name == name for hook in hooks(parent).values())
