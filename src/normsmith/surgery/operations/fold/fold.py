"""Fold batch norms into their linear layers and convolutions, for inference."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from torch import Tensor, nn

from normsmith._torch import children_of, parameters_of
from normsmith.anatomy.affine import affine_of
from normsmith.anatomy.batch_norms import BatchNorm, selected_batch_norms
from normsmith.anatomy.broken_statistics import statistics_remarks
from normsmith.anatomy.describe import describe_layer
from normsmith.anatomy.forward import Forward, call
from normsmith.anatomy.kinds import is_norm
from normsmith.anatomy.locations import Locations, find
from normsmith.anatomy.other_libraries import is_fixed
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.select import Only
from normsmith.anatomy.trace import trace
from normsmith.errors import InputError
from normsmith.surgery.operations.fold.obstacles import Fold, Owners, foldable_norm, obstacle, width
from normsmith.surgery.operations.fold.partners import Partners
from normsmith.surgery.operations.fold.weights import Weights
from normsmith.surgery.plans.edits import Edit, ModuleEdit, ParameterEdit, RequireUnchanged
from normsmith.surgery.plans.operation import Decisions, operation
from normsmith.surgery.plans.plan import Change, Plan
from normsmith.surgery.plans.verify import Expectation
from normsmith.surgery.targets.activations import activation_of


def fold(model: nn.Module, batch: Any = None, *, forward: Forward = call, only: Only = None) -> Plan:
    """Plan to let linear layers and convolutions do the work of the batch norms after or before them.

        after:  γ·(W·x + b − μ)/σ + β = (s·W)·x + (s·b + t)        s = γ/σ, t = β − s·μ
        before:  W·(s·x + t) + b = (W·s)·x + (b + Σ W·t)            σ = sqrt(running_var + eps)

    Evaluation gives the same outputs; training does not make sense afterwards. Linear layers and (transposed)
    convolutions take part, grouped ones too, and linear layers of others that a probe shows to be linear; of norms
    all that `convert` reads and that go by running statistics. Between the two may be what only moves numbers
    (flatten, view, transpose, a slice), for which a batch is needed: each channel's scale is repeated over its
    positions. Layers of any class fold too that hold vectors alone and do nothing to a channel in evaluation but scale
    and shift it, tried with a few numbers (ActNorm, layer scale, frozen norms); one that is no norm stays where it
    cannot be folded. The weights are computed in float64 and kept in their dtype; where there is no bias, there is one
    then. In the norm's place stands an `nn.Identity`, or its activation where they were one layer, so that all
    paths stay; the norm's keys leave the state dict.

    Refused, with the reason, is what would not be exact: weights that something else uses too (a layer of whose
    calls some have another norm or none, tied weights, parametrizations), an output that goes elsewhere as well, zero
    padding between a norm that shifts and its convolution, hooks that see what goes between the two, data that may go
    other ways.

    Args:
        batch: without one the model is followed by symbols (torch.fx), which dynamic code does not allow; with
            one a forward is run, see `trace`.
        forward: how the model is called with the batch.
        only: patterns of paths of norms such as "layer1.*", or a function (path, module) → bool.

    Raises:
        SurgeryError: the model has no batch norm, or its forward cannot be followed.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    >>> plan = fold(model)
    >>> print(plan)
    fold batch norms: 2 changes, 0 refusals
      1  nn.BatchNorm2d(8) → Identity()                  0 does its work
      0  Conv2d(3, 8) → Conv2d(3, 8) with other weights  as if 1 came after it; its bias is new
      outputs: the same in evaluation; in training: may differ
    >>> list(plan.apply().state_dict())
    ['0.weight', '0.bias']

    Source: Jacob et al. (2018), arXiv:1712.05877, section 3.2.
    """
    return build(model, **find_pairs(model, batch, forward, only))


def fold_pairs(
    model: nn.Module, pairs: Sequence[Sequence[Any]], refused: Mapping[str, str] | None = None
) -> Plan:
    """Plan to fold batch norms that are known to stand beside their layers: what `fold` does without its trace.

    That nothing else uses what goes between a norm and its layer is for the caller to know; weights, hooks,
    padding and shapes are looked at again.

    Args:
        pairs: (path of the norm, path of the layer, "after" or "before", dimensions): the norm comes after or before
            the layer; in the order of the forward. `dimensions`: how many the norm's input must have, or None where
            that is known to be right. A fifth part, where the layer has other channels than the norm: how many of
            them in a row are one of the norm's (49 for maps of 7 by 7 that are flattened for a linear layer).
        refused: paths of norms that are not folded, and why.

    Raises:
        InputError: a pair is of another form, or names what is not there.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    >>> fold_pairs(model, [("1", "0", "after", None)]).apply()[1]
    Identity()
    """
    return build(
        model,
        [list(pair) for pair in pairs],
        [asdict(Refusal(path, reason)) for path, reason in (refused or {}).items()],
    )


def find_pairs(model: nn.Module, batch: Any, forward: Forward, only: Only) -> Decisions:
    """The norms that can be folded, each with its partner, and those that cannot."""
    locations = Locations(model)
    chosen = selected_batch_norms(locations, "fold", only, also=is_fixed)
    owners = Owners(locations)
    partners = Partners(trace(model, batch, forward=forward), owners).find(chosen)
    folds = [partner for partner in partners.values() if isinstance(partner, Fold)]
    refused = [partner for norm in chosen if isinstance(partner := partners[norm], Refusal)]
    return {
        "pairs": [_as_row(fold, owners) for fold in folds],
        "refusals": [asdict(row) for row in refused if is_norm(find(model, row.path))],
        "kept": [asdict(row) for row in refused if not is_norm(find(model, row.path))],
    }


@operation("fold", find=find_pairs)
def build(
    model: nn.Module,
    pairs: Sequence[Sequence[Any]],
    refusals: Sequence[Mapping[str, str]] = (),
    kept: Sequence[Mapping[str, str]] = (),
) -> Plan:
    """Plan to fold the pairs of `fold_pairs`; norms of which something is against it now are refused too.

    Raises:
        InputError: a pair is of another form, or names what is not there.
    """
    owners = Owners(Locations(model))
    refused = {row["path"]: Refusal(**row) for row in refusals}
    folded: dict[nn.Module, list[tuple[Fold, BatchNorm]]] = {}
    for row in pairs:
        fold = _as_fold(row, owners)
        path, norm = owners.path(fold.norm), foldable_norm(fold.norm, owners.locations)
        if isinstance(norm, Refusal):
            refused[path] = norm
        elif (reason := obstacle(fold, norm, owners)) is not None:
            refused[path] = Refusal(path, reason)
        else:
            folded.setdefault(fold.producer, []).append((fold, norm))
    changes: list[Change] = []
    edits: list[Edit] = []
    for producer, rows in folded.items():
        weight, bias = _folded(producer, rows)
        unfit = _unfit(weight, bias)
        if unfit is not None:
            paths = [owners.path(fold.norm) for fold, _ in rows]
            refused |= {path: Refusal(path, unfit) for path in paths}
            continue
        places = {fold.norm: _stand_in(fold, norm) for fold, norm in rows}
        changes += _changes(producer, rows, places, owners)
        edits += (RequireUnchanged(module) for module in (producer, *places))
        old, beta = parameters_of(producer), _beta(rows)
        edits.append(ParameterEdit(producer, "weight", old["weight"], weight))
        edits.append(ParameterEdit(producer, "bias", old["bias"], bias, takes_over=beta))
        edits += (ModuleEdit(owners.locations.holders[norm], norm, new) for norm, new in places.items())
    return Plan(
        "fold batch norms",
        model,
        changes=tuple(changes),
        refusals=tuple(refused.values()),
        kept=tuple(Remark(**row) for row in kept),
        edits=tuple(edits),
        expects=Expectation("same", "may differ"),
        warnings=statistics_remarks(
            owners.locations, (fold.norm for rows in folded.values() for fold, _ in rows)
        ),
    )


class FoldedNorm(nn.Identity):
    """Stands where a norm was folded that had its channels in the right place for some shapes of input only.

    >>> nn.Sequential(nn.Linear(4, 3), FoldedNorm(dimensions=2))[1]
    FoldedNorm(dimensions=2)
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions

    def forward(self, input: Tensor) -> Tensor:
        """The input. Raises InputError if it has another number of dimensions."""
        if input.dim() != self.dimensions:
            raise InputError(
                f"a batch norm was folded for {self.dimensions}-D inputs here, got shape {tuple(input.shape)}, whose "
                "channels are elsewhere; fold with a batch, normsmith.surgery.fold(model, batch)"
            )
        return input

    def extra_repr(self) -> str:
        """The number of dimensions."""
        return f"dimensions={self.dimensions}"


def _as_row(fold: Fold, owners: Owners) -> list[Any]:
    row = [owners.path(fold.norm), owners.path(fold.producer), fold.side, fold.dimensions]
    return row if fold.repeats is None else [*row, fold.repeats]


def _as_fold(row: Sequence[Any], owners: Owners) -> Fold:
    modules, repeats = owners.modules, row[4] if len(row) == 5 else None
    if (
        len(row) not in (4, 5)
        or row[0] not in modules
        or row[1] not in modules
        or row[2] not in ("after", "before")
        or not (repeats is None or (type(repeats) is int and repeats > 0))
    ):
        raise InputError(
            "pairs: expected (path of a norm, path of a layer, 'after' or 'before', dimensions or None) and perhaps "
            f"a number of repeats, got {row!r}"
        )
    side: Literal["after", "before"] = row[2]
    return Fold(modules[row[0]], modules[row[1]], side, row[3], repeats)


def _folded(producer: nn.Module, rows: Sequence[tuple[Fold, BatchNorm]]) -> tuple[nn.Parameter, nn.Parameter]:
    weights = Weights.of(producer)
    for fold, norm in rows:
        affine = affine_of(norm).of_width(width(producer, fold.side))
        if fold.repeats is not None:
            affine = affine.repeated(fold.repeats, width(producer, fold.side))
        (weights.fold_after if fold.side == "after" else weights.fold_before)(affine)
    return weights.stored(_beta(rows))


def _beta(rows: Sequence[tuple[Fold, BatchNorm]]) -> nn.Parameter | None:
    """The first β of norms, in whose group an optimizer has a bias that is new."""
    betas = (norm.tensors["bias"] for _, norm in rows)
    return next((beta for beta in betas if isinstance(beta, nn.Parameter)), None)


def _unfit(*parameters: nn.Parameter) -> str | None:
    if any(not p.is_meta and not bool(p.isfinite().all()) for p in parameters):
        return f"the folded weights are not all finite in {parameters[0].dtype}"
    return None


def _changes(
    producer: nn.Module,
    rows: Sequence[tuple[Fold, BatchNorm]],
    places: Mapping[nn.Module, nn.Module],
    owners: Owners,
) -> Iterator[Change]:
    for norm, new in places.items():
        path, *also = owners.locations.paths[norm]
        after = " ".join(repr(new).split())
        yield Change(path, describe_layer(norm), after, f"{owners.path(producer)} does its work", tuple(also))
    path, *also = owners.locations.paths[producer]
    names = ", ".join(f"{owners.path(fold.norm)} came {fold.side} it" for fold, _ in rows)
    new_bias = "; its bias is new" if producer.bias is None else ""
    after = f"{describe_layer(producer)} with other weights"
    yield Change(path, describe_layer(producer), after, f"as if {names}{new_bias}", tuple(also))


def _stand_in(fold: Fold, norm: BatchNorm) -> nn.Module:
    """What comes in the norm's place: its activation, or nothing."""
    parts: dict[str, Any] = {} if fold.dimensions is None else {"norm": FoldedNorm(fold.dimensions)}
    activation = activation_of(norm)
    if isinstance(activation, nn.Sequential):  # timm's, whose parts keep their paths
        return nn.Sequential(OrderedDict(parts | children_of(activation)))
    if activation is not None:
        parts["act"] = activation
    if len(parts) == 2:
        return nn.Sequential(OrderedDict(parts))
    return next(iter(parts.values())) if parts else nn.Identity()
