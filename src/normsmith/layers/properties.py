"""Properties of layers whose errors are seen as they are."""

from __future__ import annotations

from typing import Any

from torch import nn


class TruthfulProperties(nn.Module):
    """A module whose properties raise their own errors.

    Where a property raises an AttributeError, whatever attribute is missing, Python asks `nn.Module.__getattr__` for
    the property instead, and that says that the module has no such property.
    """

    def __getattr__(self, name: str) -> Any:
        member = getattr(type(self), name, None)
        if isinstance(member, property) and member.fget is not None:
            return member.fget(self)  # once more, for its error
        return super().__getattr__(name)
