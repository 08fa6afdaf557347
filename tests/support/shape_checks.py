"""The type checker behind the shapes: beartype, as the import hook of jaxtyping calls it on every function."""

from collections.abc import Callable
from typing import Any, Self

from beartype import BeartypeConf, beartype

_CONF = BeartypeConf(is_pep484_tower=True)  # an int is a float, as everywhere in Python's typing


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's arguments and result at each call; `Self` is known to beartype in whole classes only."""
    annotations = getattr(function, "__annotations__", {})
    for name, hint in annotations.items():
        if hint in (Self, "Self"):
            annotations[name] = Any
    return beartype(function, conf=_CONF)
