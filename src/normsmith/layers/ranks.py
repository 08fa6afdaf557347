"""The ranks of torch.distributed that share a layer's statistics."""

from __future__ import annotations

from typing import Literal

import torch.distributed as dist
from torch import nn

from normsmith.errors import InputError
from normsmith.layers._where import where
from normsmith.ops import Sync, own_group


def check_process_group(process_group: object) -> None:
    """Refuse any word but "world"; what is no word is checked at the first training forward, in `sync_of`.

    Raises:
        InputError: another word.
    """
    if isinstance(process_group, str) and process_group != "world":
        raise InputError(f"process_group: expected a process group, 'world' or None, got {process_group!r}")


def sync_of(layer: nn.Module, process_group: dist.ProcessGroup | Literal["world"]) -> Sync:
    """How the statistics of a layer are shared: in a group of its own, of the same ranks; made collectively.

    Raises:
        InputError: torch.distributed is not initialised, or what was given is no process group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "process_group: expected torch.distributed to be initialised before the first training "
            "forward, got no default group; call torch.distributed.init_process_group, or drop "
            "process_group"
        )
    parent = dist.group.WORLD if process_group == "world" else process_group
    if not isinstance(parent, dist.ProcessGroup):
        raise InputError(f"process_group: expected a process group, got {parent!r}")
    return Sync(own_group(parent, lambda: where(layer)), lambda: where(layer))
