"""The ranks of torch.distributed that share a layer's statistics."""

from __future__ import annotations

from typing import Literal

import torch.distributed as dist
from torch import nn

from normsmith._torch import mark_constant
from normsmith.errors import InputError
from normsmith.layers._where import where
from normsmith.layers.models import check_model
from normsmith.ops import Sync, own_group


def check_process_group(process_group: object) -> None:
    """Refuse any word but "world"; what is no word is checked when the group is made.

    Raises:
        InputError: another word.
    """
    if isinstance(process_group, str) and process_group != "world":
        raise InputError(f"process_group: expected a process group, 'world' or None, got {process_group!r}")


def join_ranks(model: nn.Module) -> None:
    """Make the process groups of all norms in a model now: collectively, on every rank, in the order of its modules.

    Otherwise each norm makes its group at its first training forward, or while that is compiled. Call this first
    where ranks may not compile the same graphs: a rank that waits for a group, and one that waits for statistics,
    would wait for each other until a timeout. Norms without `process_group`, and those that have joined, are passed
    over.

    Raises:
        InputError: torch.distributed is not initialised, or what was given is no process group or no model.
        SyncError: a rank did not arrive in time.

    >>> from normsmith.layers import BatchNorm1d
    >>> join_ranks(nn.Sequential(BatchNorm1d(3)))  # no norm here shares its statistics
    """
    check_model(model, "join_ranks")
    for layer in model.modules():
        if isinstance(layer, SharesStatistics) and layer.process_group is not None:
            try:
                layer.join()
            except InputError as error:
                raise InputError(f"{where(layer)}: {error.args[0]}") from None


class SharesStatistics(nn.Module):
    """A norm whose statistics may be shared between ranks, in a group that is made when it is first needed."""

    process_group: dist.ProcessGroup | Literal["world"] | None
    _sync: Sync | None

    def join(self) -> Sync:
        """The layer's own group of the ranks of `process_group`; made here, collectively, unless it exists.

        Raises:
            InputError: torch.distributed is not initialised, or what was given is no process group.
            SyncError: a rank did not arrive in time.
        """
        obstacle = _obstacle(self)
        if obstacle is not None:
            raise InputError(obstacle)
        _make_group(self)
        assert self._sync is not None  # the line above makes it
        return self._sync


# The compiler calls both while it traces: a group is made before the graph that uses it, and the first training forward
# can be a compiled one.


def _obstacle(layer: SharesStatistics) -> str | None:
    """Why no group can be made for a layer; None where it can, or where there is one."""
    if layer._sync is not None:
        return None
    if not (dist.is_available() and dist.is_initialized()):
        return (
            "process_group: expected torch.distributed to be initialised before the first training "
            "forward, got no default group; call torch.distributed.init_process_group, or drop "
            "process_group"
        )
    parent = dist.group.WORLD if layer.process_group == "world" else layer.process_group
    if not isinstance(parent, dist.ProcessGroup):
        return f"process_group: expected a process group, got {parent!r}"
    return None


def _make_group(layer: SharesStatistics) -> bool:
    """Make a layer's group, unless it has one."""
    if layer._sync is None:
        parent = dist.group.WORLD if layer.process_group == "world" else layer.process_group
        assert isinstance(parent, dist.ProcessGroup)  # _obstacle has refused otherwise
        layer._sync = Sync(own_group(parent, lambda: where(layer)), lambda: where(layer))
    return True


mark_constant(_obstacle)
mark_constant(_make_group)
