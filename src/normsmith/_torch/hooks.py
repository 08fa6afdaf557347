"""Hooks of a module: handles that users hold point into these dictionaries, by their keys."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

_HOOK_ATTRIBUTES = tuple(name for name in vars(nn.Module()) if "hook" in name)


def forward_hooks_of(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """The hooks that a module calls after its forward, by handle, in order; its own dictionary.

    Needs `nn.Module._forward_hooks`. Without it a norm cannot be attached to a module that can be copied and pickled
    by hooks that are found again; `register_forward_hook` only adds.
    """
    return module._forward_hooks


def forward_pre_hooks_of(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """The hooks that a module calls before its forward, by handle, in order; its own dictionary.

    Needs `nn.Module._forward_pre_hooks`; `register_forward_pre_hook` only adds.
    """
    return module._forward_pre_hooks


def keyword_pre_hooks_of(module: nn.Module) -> dict[int, bool]:
    """Which of the hooks before a module's forward take its keyword arguments too, by handle; its own dictionary.

    Needs `nn.Module._forward_pre_hooks_with_kwargs`, of torch 2.0.
    """
    return module._forward_pre_hooks_with_kwargs


def backward_hooks_of(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """The hooks that a module calls before and after its backward, by handle.

    Needs `nn.Module._backward_pre_hooks`, of torch 2.0, and `_backward_hooks`. If they go, a fold cannot tell that
    somebody listens to the gradients between a norm and its neighbour; say so in its documentation.
    """
    return {**module._backward_pre_hooks, **module._backward_hooks}


def hand_over_hooks(old: nn.Module, new: nn.Module) -> None:
    """Give all hooks of a module to its successor, so that handles held by users remove them there.

    Hooks that torch bound to the module itself are bound to the successor. Needs that attributes of a new
    `nn.Module` with "hook" in their names are its hooks, the wrapper in which load hooks stand (`with_module`,
    `module`, `hook`), and the handles that lazy modules keep of their own hooks.
    """
    for name in _HOOK_ATTRIBUTES:
        if name in vars(old):
            vars(new)[name] = vars(old)[name]
        if isinstance(hooks := vars(new).get(name), dict):
            _rebind(hooks, old, new)
    for name in ("_initialize_hook", "_load_hook"):  # of lazy modules: handles into the hooks above
        if name in vars(old):
            vars(new)[name] = vars(old)[name]


def share_hooks(module: nn.Module, other: nn.Module) -> None:
    """Let another module have the very hooks of a module: those that are added to either are added to both.

    Needs that attributes of a new `nn.Module` with "hook" in their names are its hooks.
    """
    vars(other).update({name: vars(module)[name] for name in _HOOK_ATTRIBUTES if name in vars(module)})


def _rebind(hooks: dict[int, Any], old: nn.Module, new: nn.Module) -> None:
    for key, hook in hooks.items():
        inner = getattr(hook, "hook", None)
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(new)
        elif inner is not None and _is_method_of(inner, old):
            hook.hook = getattr(new, inner.__name__)
        elif _is_method_of(hook, old) and hasattr(new, hook.__name__):
            hooks[key] = getattr(new, hook.__name__)


def _is_method_of(hook: Any, module: nn.Module) -> bool:
    return isinstance(hook, types.MethodType) and hook.__self__ is module
