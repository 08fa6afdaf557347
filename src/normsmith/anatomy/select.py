"""Selecting the modules that an operation is for: by path, by a function, or as the first or last so many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from normsmith.errors import InputError

Only = str | Sequence[str] | Callable[[str, nn.Module], bool] | None
"""Patterns of paths (`"layer1.*"`), or a function (path, module) → bool; None for all."""


def selected(
    paths: Mapping[nn.Module, tuple[str, ...]], only: Only, first: int | None, last: int | None
) -> list[nn.Module]:
    """The modules that have a path that fits `only`; with `first=n` or `last=n` only so many of these.

    Raises:
        InputError: `first` and `last` together, or less than 1.

    >>> layers = {nn.Tanh(): ("a.norm",), nn.ReLU(): ("b.norm", "c.norm")}
    >>> selected(layers, "c.*", None, None), selected(layers, None, 1, None)
    ([ReLU()], [Tanh()])
    """
    if first is not None and last is not None:
        raise InputError("expected first or last, got both; select by only= instead")
    for name, count in (("first", first), ("last", last)):
        if count is not None and count < 1:
            raise InputError(f"{name}: expected a number of layers from 1 on, got {count}")
    fitting = [module for module, names in paths.items() if any(_fits(name, module, only) for name in names)]
    if first is not None:
        return fitting[:first]
    return fitting if last is None else fitting[-last:]


def _fits(path: str, module: nn.Module, only: Only) -> bool:
    if only is None:
        return True
    if callable(only):
        return bool(only(path, module))
    patterns = (only,) if isinstance(only, str) else only
    return any(fnmatchcase(path, pattern) for pattern in patterns)
