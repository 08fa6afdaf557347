"""Where a module sits in the user's model: searched for only when an error is about to say it."""

from __future__ import annotations

import gc

from torch import nn

from normsmith._torch import children_so_far


def where(module: nn.Module) -> str:
    """The module's path from the outermost module that holds it, e.g. `Net.blocks.0.norm`, or its class.

    >>> net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    >>> where(net[1])
    'Sequential.1'
    """
    holders: dict[int, tuple[nn.Module, str]] = {}
    for candidate in gc.get_objects():
        if issubclass(type(candidate), nn.Module):
            for name, child in children_so_far(candidate).items():
                holders.setdefault(id(child), (candidate, name))
    path: list[str] = []
    while id(module) in holders and len(path) < 100:
        module, name = holders[id(module)]
        path.insert(0, name)
    return ".".join([type(module).__name__, *path])
