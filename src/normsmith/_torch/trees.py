"""Nested structures of tensors: `torch.utils._pytree`, of which torch 2.6 has no public counterpart in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils import _pytree


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same structure with the function's value for each leaf. Needs `torch.utils._pytree.tree_map`."""
    return _pytree.tree_map(function, tree)


def leaves_of(tree: Any) -> list[Any]:
    """What nested tuples, lists and dictionaries hold, in order. Needs `torch.utils._pytree.tree_leaves`."""
    return _pytree.tree_leaves(tree)


def leaves_and_layout(tree: Any) -> tuple[list[Any], Any]:
    """The leaves, and what `with_layout` needs to put others in their places. Needs `_pytree.tree_flatten`."""
    return _pytree.tree_flatten(tree)


def with_layout(leaves: list[Any], layout: Any) -> Any:
    """Leaves in a structure that `leaves_and_layout` gave. Needs `torch.utils._pytree.tree_unflatten`."""
    return _pytree.tree_unflatten(leaves, layout)
