"""A plan to prune tried on its example, before anybody applies it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from normsmith._text import error_text
from normsmith.anatomy.forward import Forward, copied, outputs
from normsmith.anatomy.locations import find
from normsmith.anatomy.preserve import preserved
from normsmith.errors import SurgeryError
from normsmith.surgery.plans.edits import Edit, ValueEdit, done
from normsmith.surgery.plans.plan import Plan
from normsmith.surgery.plans.verify import compare


def try_on(plan: Plan, removed: Mapping[str, Sequence[int]], batch: Any, forward: Forward) -> None:
    """Compare the pruned network's outputs with those of the network with γ = 0; nothing is changed afterwards.

    Where the plan has warnings they may differ, and the pruned network must only run.

    Raises:
        SurgeryError: it does not run, or its outputs are others where the plan says exact.
    """
    if not plan.edits:
        return
    zeroed = [
        ValueEdit(norm, "weight", _without(norm.weight, removed[path]))
        for path, norm in _norms(plan, removed)
    ]
    with_zeros = _outputs(plan, zeroed, batch, forward)
    try:
        pruned = _outputs(plan, plan.edits, batch, forward)
    except Exception as error:
        raise SurgeryError(
            f"prune: the smaller network fails on this batch, its forward may count on so many channels: "
            f"{error_text(error)}; leave norms out with only=..."
        ) from error
    compare(with_zeros, pruned, "may differ" if plan.warnings else "same", "evaluation, γ = 0", None)


def _norms(plan: Plan, removed: Mapping[str, Sequence[int]]) -> list[tuple[str, Any]]:
    norms = [(path, find(plan.model, path)) for path in removed]
    return [(path, norm) for path, norm in norms if norm.weight is not None]


def _without(weight: Tensor, indices: Sequence[int]) -> Tensor:
    values = weight.detach().clone()
    values[list(indices)] = 0
    return values


def _outputs(plan: Plan, edits: Sequence[Edit], batch: Any, forward: Forward) -> list[torch.Tensor]:
    with done(edits), preserved(plan.model):
        return outputs(plan.model, copied(batch), forward, training=False)
