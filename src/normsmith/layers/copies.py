"""Copies and pickles of a layer: what they take along, and what stays with the original."""

from __future__ import annotations

import copy
from typing import Any, Literal, Self

import torch.distributed as dist
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

_RENAMED = {"_pinned": "pinned", "_context_mask": "context_mask", "_qconfig": "qconfig"}
"""Attributes that layers pickled by normsmith 0.1 have under other names."""

_OUTSIDE = {"_sync": None, "_collected": None, "context_mask": None, "leaves_trace": True}
"""The attributes of this process and of open blocks, as they are outside of all."""


class Copyable(nn.Module):
    """A norm whose copies and pickles leave out what belongs to this process or to an open `with` block."""

    process_group: dist.ProcessGroup | Literal["world"] | None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **_OUTSIDE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(_OUTSIDE | {_RENAMED.get(name, name): value for name, value in state.items()})  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if not isinstance(self.process_group, str) and self.process_group is not None:
            memo[id(self.process_group)] = self.process_group  # a copy talks to the same ranks
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        # torch lets parametrized modules be copied, but not be pickled: `__getstate__` raises its error
        state = Copyable.__getstate__(self) if is_parametrized(self) else self.__getstate__()
        twin.__setstate__(copy.deepcopy(state, memo))
        return twin
