"""Weights and statistics of several models averaged: federated averaging, model soups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._choices import is_number
from normsmith._text import count, interval
from normsmith.anatomy.forward import Forward, call, unwrapped
from normsmith.anatomy.locations import find
from normsmith.anatomy.remark import Remark
from normsmith.errors import InputError, SurgeryError
from normsmith.measure.layers import measurable_layers
from normsmith.surgery.operations.merge.merge_statistics import build as statistics_plan
from normsmith.surgery.operations.merge.merge_statistics import find_statistics
from normsmith.surgery.operations.merge.sources import (
    Count,
    Source,
    State,
    check_same_structure,
    check_several,
    state_of,
)
from normsmith.surgery.plans.edits import Edit, ValueEdit
from normsmith.surgery.plans.operation import Decisions, operation
from normsmith.surgery.plans.plan import Change, Plan
from normsmith.surgery.plans.verify import Expectation

_STATISTICS = ("running_mean", "running_var", "running_std", "num_batches_tracked")


def average(
    model: nn.Module,
    others: Sequence[Source],
    *,
    shares: Sequence[float] | None = None,
    counts: Sequence[Count] | None = None,
    batch: Any = None,
    forward: Forward = call,
) -> Plan:
    """Plan to give a model the averaged weights of several models, and the statistics of their data together.

        w = Σ sᵢwᵢ / Σ sᵢ        statistics: as `merge_statistics` pools them

    Where the weights before a norm differ, no model has seen what reaches it in the averaged network: the merged
    statistics are then a start, and the plan's warnings ask for `recalibrate(model, loader)` after `apply`, or for its
    `group=` over the parties. Parameters stay the same tensors, with other values; an optimizer keeps its state.
    Buffers beside the running statistics stay the model's, with a warning where they differ.

    Args:
        model: the model that gets the average, the first of those that are averaged.
        others: models or state dicts of the same structure.
        shares: the weight of the model and each of the others, such as numbers of samples; by default all alike.
        counts: for the statistics, as in `merge_statistics`; by default the shares.
        batch, forward: as in `merge_statistics`.

    Raises:
        InputError: a model of another structure; shares or counts that do not fit.
        SurgeryError: the weights of a model are not finite, or its statistics are broken.

    >>> one, other = nn.Sequential(nn.Linear(1, 1)), nn.Sequential(nn.Linear(1, 1))
    >>> for model, weight in ((one, 1.0), (other, 5.0)):
    ...     _ = nn.init.constant_(model[0].weight, weight)
    >>> average(one, [other], shares=[3, 1]).apply()[0].weight.item()
    2.0

    Source: McMahan et al. (2017), arXiv:1602.05629; Wortsman et al. (2022), arXiv:2203.05482.
    """
    return build(unwrapped(model), **find_average(model, others, shares, counts, batch, forward))


def find_average(
    model: nn.Module,
    others: Sequence[Source],
    shares: Sequence[float] | None,
    counts: Sequence[Count] | None,
    batch: Any,
    forward: Forward,
) -> Decisions:
    """The averaged parameters, and what `merge_statistics` finds of the layers with statistics."""
    check_several(others)
    inner = unwrapped(model)
    states = [state_of(source) for source in (model, *others)]
    check_same_structure(states, "average")
    each = _checked_shares(shares, len(states))
    statistics = _statistics(inner, others, counts, batch, forward, each)
    parameters = {
        name: _mean(name, states, each) for name, _ in inner.named_parameters() if _differs(name, states)
    }
    apart = [
        name
        for name, _ in inner.named_buffers()
        if name in states[0] and name.rpartition(".")[2] not in _STATISTICS and _differs(name, states)
    ]
    return {"parameters": parameters, "shares": list(each), "apart": apart, "statistics": statistics}


@operation("average", find=find_average)
def build(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    shares: Sequence[float],
    apart: Sequence[str],
    statistics: Mapping[str, Any] | None,
) -> Plan:
    """Plan to write averaged weights and merged statistics.

    Raises:
        SurgeryError: a parameter or layer is not there, or has other statistics.
    """
    merged = Plan("", model) if statistics is None else statistics_plan(model, **statistics)
    changes: list[Change] = []
    edits: list[Edit] = []
    for name, values in parameters.items():
        path, _, own = name.rpartition(".")
        edits.append(ValueEdit(find(model, path), own, values))
    if parameters:
        spread = interval(min(shares) / sum(shares), max(shares) / sum(shares))
        after = f"their means over {count(len(shares), 'model')}"
        changes.append(Change("", count(len(parameters), "parameter"), after, f"shares of {spread}"))
    warnings = [*merged.warnings]
    if parameters and merged.changes:
        warnings.insert(0, Remark("", "weights differ: recalibrate(model, loader) after this; " + _UNTIL))
    warnings += [Remark(name, "differs between the models, and stays that of the first") for name in apart]
    return replace(
        merged,
        title=f"average {count(len(shares), 'model')}",
        changes=(*changes, *merged.changes),
        edits=(*edits, *merged.edits),
        warnings=tuple(warnings),
        expects=Expectation(),
    )


_UNTIL = "until then its norms go by statistics of other weights' activations"


def _statistics(
    model: nn.Module,
    others: Sequence[Source],
    counts: Sequence[Count] | None,
    batch: Any,
    forward: Forward,
    shares: Sequence[float],
) -> Decisions | None:
    """What is merged of the norms; None where no layer keeps statistics."""
    measurable = measurable_layers(model, inputs=False)
    if not (measurable.layers or measurable.refused):
        return None
    return find_statistics(model, others, counts, batch, forward, None, shares)


def _checked_shares(shares: Any, number: int) -> Sequence[float]:
    if shares is None:
        return [1.0] * number
    given = shares.tolist() if isinstance(shares, Tensor) else shares
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != number:
        got = len(given) if isinstance(given, Sequence) else type(shares).__name__
        raise InputError(
            f"shares: expected one for the model and one for each of the others, {number} together, got {got}"
        )
    for place, share in enumerate(given):
        if not (is_number(share) and 0 < share < float("inf")):
            raise InputError(f"shares[{place}]: expected a number above 0, got {share!r}")
    return [float(share) for share in given]


def _differs(name: str, states: Sequence[State]) -> bool:
    first = states[0][name].detach().cpu()
    return any(not torch.equal(first, state[name].detach().cpu()) for state in states[1:])


def _mean(name: str, states: Sequence[State], shares: Sequence[float]) -> Tensor:
    tensors = [state[name].detach().cpu().double() for state in states]
    weighted = sum(
        (tensor * (share / sum(shares)) for tensor, share in zip(tensors, shares, strict=True)),
        torch.zeros_like(tensors[0]),
    )
    if not bool(weighted.isfinite().all()):
        raise SurgeryError(f"average: expected finite weights, got NaN or infinite ones in {name}")
    return weighted.to(states[0][name].dtype)
