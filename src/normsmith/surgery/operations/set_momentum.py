"""Set the momentum of batch norms: by how much each batch moves the running statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn

from normsmith._text import exact
from normsmith._torch import NormBase
from normsmith.anatomy.batch_norms import selected_batch_norms
from normsmith.anatomy.kinds import has_own_forward, why_own_forward_binds
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.select import Only
from normsmith.errors import InputError
from normsmith.surgery.plans.edits import AttributeEdit
from normsmith.surgery.plans.operation import operation
from normsmith.surgery.plans.plan import Change, Plan
from normsmith.surgery.plans.verify import Expectation


@operation("set_momentum")
def set_momentum(model: nn.Module, momentum: float | None, *, only: Only = None) -> Plan:
    """Plan to give batch norms another momentum; statistics and outputs stay as they are.

        running ← (1 − momentum)·running + momentum·batch

    The convention is torch's: TensorFlow and Keras call 1 − momentum so, their 0.99 is 0.01 here.

    Args:
        model: any module.
        momentum: from 0, which never moves the statistics, to 1, with which they are the last batch's; None for the
            plain average of all batches.
        only: patterns of paths such as "layer1.*", or a function (path, module) → bool.

    Raises:
        InputError: the momentum is out of its range.
        SurgeryError: there is no batch norm among what is selected.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=0.99))
    >>> print(set_momentum(model, 0.01))
    momentum 0.01: 1 change, 0 refusals
      1  momentum 0.99 → momentum 0.01  asked for
      outputs: the same in evaluation; in training: same
    """
    if momentum is not None and not (math.isfinite(momentum) and 0 <= momentum <= 1):
        raise InputError(f"momentum: expected a number from 0 to 1, or None, got {momentum!r}")
    locations = Locations(model)
    chosen = selected_batch_norms(locations, "set_momentum", only)
    rows = [(module, locations.paths[module]) for module in chosen]
    changed = [row for row in rows if _why_not(row[0]) is None and row[0].momentum != momentum]
    return Plan(
        _text(momentum),
        model,
        changes=tuple(
            Change(path, _text(module.momentum), _text(momentum), "asked for", tuple(also))  # type: ignore[arg-type]
            for module, (path, *also) in changed
        ),
        refusals=tuple(_refusals(rows)),
        kept=tuple(
            Remark(paths[0], f"has {_text(momentum)} already")
            for module, paths in rows
            if _why_not(module) is None and module.momentum == momentum
        ),
        edits=tuple(AttributeEdit(module, "momentum", momentum) for module, _ in changed),
        expects=Expectation("same", "same"),
    )


def _refusals(rows: list[tuple[nn.Module, tuple[str, ...]]]) -> Iterator[Refusal]:
    for module, paths in rows:
        reason = _why_not(module)
        if reason is not None:
            yield Refusal(paths[0], reason)


def _why_not(module: nn.Module) -> str | None:
    """Why the momentum of a batch norm is not set: it has none, or somebody else's forward decides what it means."""
    if not isinstance(module, NormBase) or not hasattr(module, "momentum"):
        return f"{type(module).__name__} has no momentum as torch's batch norms do"
    return why_own_forward_binds(module) if has_own_forward(module) else None


def _text(momentum: float | None) -> str:
    return f"momentum {momentum if momentum is None else exact(momentum)}"
