"""Norms that hooks apply before or after anybody's layer: the hooks, and how they are recognised on a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from normsmith._torch import children_of, forward_hooks_of, forward_pre_hooks_of
from normsmith.errors import InputError
from normsmith.layers.callers import is_called_by

Side = Literal["before", "after"]
"""Whether a norm is applied before a module, to its first argument, or after it, to its output."""


@dataclass(frozen=True)
class Attached:
    """A hook of a module that applies the module's child `name` to a tensor.

    The child is looked up at each call, so that what replaces it (a converted, frozen or folded norm) is called from
    then on; the hook holds no module, so copies and pickles of the module work.

    - `channels_last`: the tensor's shape is (N, …, C).
    - `unsqueeze`: how many dimensions of size one the tensor gets for the norm, which takes more than it has, since
      it was made for results that are pooled here.
    """

    name: str
    channels_last: bool
    unsqueeze: int = 0

    def __getattr__(self, name: str) -> Any:
        if name == "__name__" and is_called_by("get_hook_stubs"):
            raise InputError(
                f"torch.jit.script: {self.name} is attached to a layer by a hook, which TorchScript cannot compile; "
                "fold the norm first (normsmith.surgery.fold), or record the model with torch.jit.trace"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def normalised(self, module: nn.Module, x: Any) -> Any:
        """A tensor or packed sequence normalised by the child; of a tuple (as of recurrent layers) the first part."""
        if isinstance(x, PackedSequence):
            return x._replace(data=children_of(module)[self.name](x.data))  # type: ignore[misc]
        if isinstance(x, tuple):
            return (self.normalised(module, x[0]), *x[1:])
        norm: Any = children_of(module)[self.name]
        moves = self.moves_channels(norm)
        x = x.movedim(-1, 1) if moves else x
        added = self.unsqueeze
        y = norm(x[(..., *[None] * added)])[(..., *[0] * added)] if added else norm(x)
        return y.movedim(1, -1) if moves else y

    def moves_channels(self, norm: nn.Module) -> bool:
        """Whether channels are moved to the second dimension for the norm; layer and RMS norm take them last."""
        return self.channels_last and not isinstance(norm, (nn.LayerNorm, nn.RMSNorm))


class After(Attached):
    """A forward hook that applies the child to the module's output."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The output normalised; the arguments are those of forward hooks."""
        return self.normalised(module, output)


class Before(Attached):
    """A forward pre-hook that applies the child to the module's first argument."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """The arguments with the first tensor normalised; called as a pre-hook with keywords."""
        if args:
            return (self.normalised(module, args[0]), *args[1:]), kwargs
        first = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        return args, {**kwargs, first: self.normalised(module, kwargs[first])}


def attached_norms(module: nn.Module) -> dict[int, Attached]:
    """The hooks by which norms are attached to a module, by the number that torch gave each hook.

    >>> layer = nn.Linear(2, 2)
    >>> layer.norm = nn.LayerNorm(2)
    >>> _ = layer.register_forward_hook(After("norm", channels_last=True))
    >>> [hook.name for hook in attached_norms(layer).values()]
    ['norm']
    """
    held: tuple[tuple[int, Any], ...] = (
        *forward_pre_hooks_of(module).items(),
        *forward_hooks_of(module).items(),
    )
    return {key: hook for key, hook in held if isinstance(hook, Attached)}


def call_with_attached_norms(module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call `forward(*args, **kwargs)` with the norms that are attached to a module, where no hooks run."""
    attached = attached_norms(module).values()
    for hook in attached:
        if isinstance(hook, Before):
            args, kwargs = hook(module, args, kwargs)
    output = forward(*args, **kwargs)
    for hook in attached:
        if isinstance(hook, After):
            output = hook(module, args, output)
    return output


def is_attached(parent: nn.Module, name: str) -> bool:
    """Whether a child of a module is a norm that a hook applies."""
    return any(hook.name == name for hook in attached_norms(parent).values())
