"""Where a module sits in the user's model: searched for only when an error is about to say it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import nn

from normsmith._torch import children_so_far, compiled_module, is_compiler_loaded, mark_constant


def where(module: nn.Module) -> str:
    """The module's path from the outermost module that holds it, e.g. `Net.blocks.0.norm`, or its class.

    What `torch.compile` wraps around a module is no part of the path. While the compiler traces, the path is a constant
    to it, so that an error raised then says it too.

    >>> net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    >>> where(net[1])
    'Sequential.1'
    """
    # where the compiler has given up the caller it would go on to trace the search, which it cannot
    search: Callable[[nn.Module], str] = _path
    if is_compiler_loaded():
        search = torch.compiler.disable(_path)  # type: ignore[no-untyped-call]
    return search(module)


mark_constant(where)


def _path(module: nn.Module) -> str:
    holders: dict[int, tuple[nn.Module, str]] = {}
    for candidate in gc.get_objects():
        if issubclass(type(candidate), nn.Module):
            for name, child in children_so_far(candidate).items():
                holders.setdefault(id(child), (candidate, name))
    path: list[str] = []
    root = module
    while id(module) in holders and len(path) < 100:
        child = module
        module, name = holders[id(child)]
        if compiled_module(module) is not child:
            path.insert(0, name)
            root = module
    return ".".join([type(root).__name__, *path])
