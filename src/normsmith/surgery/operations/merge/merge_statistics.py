"""Statistics of several models merged into those of all their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from normsmith._text import count
from normsmith._torch import buffers_of
from normsmith.anatomy.forward import Forward, call, unwrapped
from normsmith.anatomy.locations import find
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.select import Only
from normsmith.measure.layers import measurable_layers
from normsmith.surgery.operations.merge.exactness import Exactness
from normsmith.surgery.operations.merge.sources import (
    Count,
    Source,
    check_same_structure,
    check_several,
    checked_counts,
    parts_of,
    pooled,
    state_of,
    steps_of,
)
from normsmith.surgery.operations.set_statistics import set_statistics
from normsmith.surgery.plans.edits import Edit, ValueEdit
from normsmith.surgery.plans.operation import Decisions, operation
from normsmith.surgery.plans.plan import Change, Plan


def merge_statistics(
    model: nn.Module,
    others: Sequence[Source],
    *,
    counts: Sequence[Count] | None = None,
    batch: Any = None,
    forward: Forward = call,
    only: Only = None,
) -> Plan:
    """Plan to give a model's batch norms the statistics of the data of several models together.

        N = Σnᵢ    μ = Σnᵢμᵢ / N    running_var = (Σ(nᵢ − 1)σᵢ² + Σnᵢ(μᵢ − μ)²) / (N − 1)

    for the nᵢ values per channel that each model has seen, in float64; the second sum is the variance *between* the
    models, which an average of variances leaves out. Averages of models in federated learning, of model soups and of
    shards that were trained apart need it. Layers of renorm get their `running_std` as well. `num_batches_tracked`
    becomes the largest of the models' (their sum where `momentum=None`). Layers that their user has frozen stay as
    they are.

    Exact are a network's first norms, those before which there is no other batch norm and no weight that differs, if
    the counts are those of values that were measured. What reaches a deeper norm in each model has been normalised by
    the model's own statistics; no merging undoes that, and the plan calls these layers approximate, with the reason.
    They become exact by `recalibrate(model, loader, mode="exact", group=...)` over all parties: a process group, or a
    `FolderGroup` where no network connects them. Moving averages of training have no count, and are approximate.

    Args:
        model: the model that gets the statistics, the first of those that are merged.
        others: models or state dicts of the same structure.
        counts: for the model and each of the others in turn, how many values per channel (samples times positions) its
            statistics are of: one number; numbers by the paths of layers; or the result of `recalibrate` on that model,
            applied or not, whose statistics and counts are taken. None: they are not known, and each model counts the
            same.
        batch, forward: to find out which norms are first where torch.fx cannot follow the model; see `trace`.
        only: patterns of paths such as "layer1.*", or a function (path, module) → bool.

    Raises:
        InputError: a model of another structure, or counts that do not fit: of zero for example.
        SurgeryError: no layer has running statistics, or those of a model are negative or not finite.

    >>> one, other = nn.Sequential(nn.BatchNorm1d(1)), nn.Sequential(nn.BatchNorm1d(1))
    >>> other[0].running_mean += 4
    >>> print(merge_statistics(one, [other], counts=[100, 300]))
    merge statistics of 2 models: 1 change, 0 refusals
      0  running statistics → running_mean 3, running_var 4.01  exact: of 400 values per channel

    Source: Chan, Golub, LeVeque (1979), as in `normsmith.ops.merge`.
    """
    return build(unwrapped(model), **find_statistics(model, others, counts, batch, forward, only))


def find_statistics(
    model: nn.Module,
    others: Sequence[Source],
    counts: Sequence[Count] | None,
    batch: Any,
    forward: Forward,
    only: Only,
    shares: Sequence[float] | None = None,
) -> Decisions:
    """The merged statistics of every layer, and why those that are approximate are."""
    check_several(others)
    model = unwrapped(model)
    states = [state_of(source) for source in (model, *others)]
    check_same_structure(states, "merge_statistics")
    given = checked_counts(counts, len(states), [path for path, _ in model.named_modules()])
    measurable = measurable_layers(model, only, inputs=False)
    layers = measurable.some_for("merge_statistics")
    exactness = Exactness(model, measurable, states, batch, forward)
    rows: list[dict[str, Any]] = []
    kept = [asdict(remark) for remark in measurable.kept]
    for layer in layers:
        parts = parts_of(layer, states, given, shares or [1.0] * len(states))
        if not parts:
            kept.append(asdict(Remark(layer.path, "the data of no model reached it")))
            continue
        merged = pooled(parts, layer.epsilon)
        momentum: Any = getattr(layer.layer, "momentum", None)
        rows.append(
            {
                "path": layer.path,
                "statistics": {
                    f"running_{name}": value.tolist()
                    for name, value in merged._asdict().items()
                    if value is not None
                },
                "steps": next(steps_of(parts, momentum), None),
                "values": None if given is None else sum(part.count for part in parts),
                "approximate": exactness.why_not(layer, parts),
            }
        )
    return {
        "layers": rows,
        "models": len(states),
        "kept": kept,
        "refusals": [asdict(refusal) for refusal in measurable.refused],
    }


@operation("merge_statistics", find=find_statistics)
def build(
    model: nn.Module,
    layers: Sequence[Mapping[str, Any]],
    models: int,
    kept: Sequence[Mapping[str, str]] = (),
    refusals: Sequence[Mapping[str, str]] = (),
) -> Plan:
    """Plan to write merged statistics, each with what is said of it.

    Raises:
        SurgeryError: a layer is not there, or has other statistics.
    """
    plan = set_statistics(model, {row["path"]: row["statistics"] for row in layers})
    changes: list[Change] = []
    edits: list[Edit] = list(plan.edits)
    for change, row in zip(plan.changes, layers, strict=True):
        values = "" if row["values"] is None else f" of {row['values']:g} values per channel"
        reason = row["approximate"]
        why = f"exact:{values}" if reason is None else f"approximate{values}: {reason}"
        changes.append(replace(change, why=why))
        counter = buffers_of(find(model, row["path"])).get("num_batches_tracked")
        if counter is not None and row["steps"] is not None:
            steps = torch.full_like(counter, row["steps"])
            edits.append(ValueEdit(find(model, row["path"]), "num_batches_tracked", steps))
    return replace(
        plan,
        title=f"merge statistics of {count(models, 'model')}",
        changes=tuple(changes),
        refusals=tuple(Refusal(**row) for row in refusals),
        kept=tuple(Remark(**row) for row in kept),
        edits=tuple(edits),
        warnings=(*plan.warnings, *_advice(layers)),
    )


def _advice(layers: Sequence[Mapping[str, Any]]) -> list[Remark]:
    """What to do about layers that are approximate, once for all of them."""
    approximate = [row["path"] for row in layers if row["approximate"] is not None]
    if not approximate:
        return []
    names = ", ".join(approximate[:3]) + (", …" if len(approximate) > 3 else "")
    return [
        Remark(
            "",
            f"{len(approximate)} of {count(len(layers), 'layer')} are approximate ({names}); exact: "
            'recalibrate(model, loader, mode="exact"), with group= over the parties where the data must not be put '
            "together",
        )
    ]
