"""What a checkpoint is made of: state dicts under keys, optimizers' states, and other entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Keys = tuple[Any, ...]
"""The keys from the outermost dict of a checkpoint to an entry."""

USUAL = ("state_dict", "model_state_dict", "model")
"""Where training scripts keep the weights that they train; elsewhere are copies and other networks."""


@dataclass(frozen=True)
class StateDict:
    """A state dict within a checkpoint, and the keys under which it stands there."""

    keys: Keys
    tensors: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The keys in one word; empty if the file is the state dict itself."""
        return name_of(self.keys)


def name_of(keys: Keys) -> str:
    """Keys of nested dicts in one word, as `--key` takes them.

    >>> name_of(("ema", "shadow")), name_of(())
    ('ema.shadow', '')
    """
    return ".".join(map(str, keys))


def state_dicts(content: Any) -> list[StateDict]:
    """All state dicts of a checkpoint, outermost first; what optimizers hold is none.

    >>> import torch
    >>> [state.name for state in state_dicts({"epoch": 3, "model": {"weight": torch.ones(2)}})]
    ['model']
    """
    return [
        StateDict(keys, value)
        for keys, value in _dicts(content, ())
        if all(isinstance(key, str) for key in value) and any(map(_is_weight, value.values()))
    ]


def optimizers(content: Any) -> list[Keys]:
    """Where the states of optimizers stand: dicts with "state" and "param_groups", or a list of such."""

    def within(value: Any, keys: Keys) -> Iterator[Keys]:
        if _is_optimizer(value) or (isinstance(value, (list, tuple)) and any(map(_is_optimizer, value))):
            yield keys
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                yield from within(inner, (*keys, key))

    return list(within(content, ()))


def replaced(content: Any, keys: Keys, change: Callable[[Any], Any]) -> Any:
    """The content with the entry at these keys changed; the dicts on the way are copied, no other."""
    if not keys:
        return change(content)
    outer = copy(content)
    outer[keys[0]] = replaced(content[keys[0]], keys[1:], change)
    return outer


def without(content: Any, keys: Keys) -> Any:
    """The content less the entry at these keys."""

    def less(inner: Any) -> Any:
        rest = copy(inner)
        del rest[keys[-1]]
        return rest

    return replaced(content, keys[:-1], less)


def _dicts(value: Any, keys: Keys) -> Iterator[tuple[Keys, Mapping[Any, Any]]]:
    if isinstance(value, Mapping) and not _is_optimizer(value):
        yield keys, value
        for key, inner in value.items():
            yield from _dicts(inner, (*keys, key))


def _is_weight(value: Any) -> bool:
    """Whether a value may be a weight, rather than a score, a counter or the state of random numbers."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Mapping) and "state" in value and "param_groups" in value
