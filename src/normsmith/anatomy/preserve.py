"""A model borrowed for forwards: whatever they change in it is put back, also when they raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normsmith._torch import buffers_of, parameters_of
from normsmith.anatomy.isolation import same_random_numbers


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Run forwards of `model` in this block, in any mode: after it the model is as it was before.

    That means parameters and buffers (the same tensors with the same bits), modes, attributes of its modules, hooks,
    gradients, and the state of the random generators. What forwards and hooks change elsewhere stays changed.

    >>> layer = nn.BatchNorm1d(2).eval()
    >>> with preserved(layer):
    ...     _ = layer.train()(torch.randn(4, 2))
    >>> layer.training, layer.num_batches_tracked.item()
    (False, 0)
    """
    modules = list(model.modules())
    states = [(vars(module), _shallow(vars(module))) for module in modules]
    tensors = {id(t): t for module in modules for t in _tensors(module) if not is_lazy(t) and not t.is_meta}
    values = [(tensor, tensor.detach().clone(), tensor.grad) for tensor in tensors.values()]
    for tensor in tensors.values():
        tensor.grad = None
    with same_random_numbers(model):
        try:
            yield
        finally:
            for state, before in states:
                _put_back(state, before)
            with torch.no_grad():
                for tensor, value, gradient in values:
                    if tensor.shape != value.shape:  # grown in place, as quantisation's observers do
                        tensor.data = value
                    if not _is_equal(tensor, value):  # a copy would count as a change in the user's graph
                        tensor.copy_(value)
                    tensor.grad = gradient


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """The parameters and buffers of a module itself."""
    for tensor in (*parameters_of(module).values(), *buffers_of(module).values()):
        if tensor is not None:
            yield tensor


def _shallow(state: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The attributes of a module, each with a copy of what it contains."""
    return {name: (value, _contents(value)) for name, value in state.items()}


_NOTHING: dict[Any, Any] = {}


def _contents(value: Any) -> Any:
    """A shallow copy of a container; None of anything else."""
    if isinstance(value, dict):
        # most are empty: a module has a dozen of dictionaries for hooks, of which few are used
        return dict(value) if value else _NOTHING
    return value.copy() if isinstance(value, (list, set)) else None


def _put_back(state: dict[str, Any], before: dict[str, tuple[Any, Any]]) -> None:
    """Give a module its attributes back, the containers among them with what they contained."""
    for name in state.keys() - before.keys():
        del state[name]
    for name, (value, contents) in before.items():
        state[name] = value
        if isinstance(value, list):
            value[:] = contents
        elif contents is not None and (value or contents):
            value.clear()
            value.update(contents)


def _is_equal(tensor: Tensor, value: Tensor) -> bool:
    return tensor.shape == value.shape and torch.equal(tensor, value)
