"""Nested structures of tensors are still taken apart and put together."""

from __future__ import annotations

from normsmith import _torch


def test_trees_of_tensors_are_taken_apart_and_put_together() -> None:
    tree = {"a": (1, [2, 3]), "b": 4}
    assert _torch.leaves_of(tree) == [1, 2, 3, 4]
    assert _torch.map_leaves(lambda leaf: -leaf, tree) == {"a": (-1, [-2, -3]), "b": -4}
    leaves, layout = _torch.leaves_and_layout(tree)
    assert _torch.with_layout([leaf * 2 for leaf in leaves], layout) == {"a": (2, [4, 6]), "b": 8}
