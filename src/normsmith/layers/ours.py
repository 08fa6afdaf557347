"""Which layer classes are normsmith's own, and which are classes that others derive from them."""

from __future__ import annotations

from typing import Any, ClassVar

_PACKAGE = __name__.rpartition(".")[0] + "."


class Ours:
    """Base of every layer of normsmith: knows of each class below it whether normsmith defines it."""

    is_ours: ClassVar[bool] = False
    """Whether normsmith defines this very class; False for classes that others derive from it."""

    is_composite: ClassVar[bool] = False
    """Whether its forward only calls layers that it holds, which are layers of the model by themselves."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.is_ours = cls.__module__.startswith(_PACKAGE)


def is_ours(kind: type) -> bool:
    """Whether a class is a layer class that normsmith defines.

    >>> from torch import nn
    >>> from normsmith.layers import BatchNorm1d
    >>> is_ours(BatchNorm1d), is_ours(nn.BatchNorm1d)
    (True, False)
    """
    return issubclass(kind, Ours) and kind.is_ours
