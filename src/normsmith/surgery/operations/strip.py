"""Take the norms out of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from normsmith._torch import buffers_of, children_of, parameters_of
from normsmith.anatomy.aliasing import needs_a_copy, used_elsewhere
from normsmith.anatomy.batch_norms import BatchNorm, is_batch_norm
from normsmith.anatomy.behaviour import behaviour_of
from normsmith.anatomy.describe import describe_module
from normsmith.anatomy.forward import Forward, call
from normsmith.anatomy.graph import Graph
from normsmith.anatomy.kinds import has_own_forward, is_norm, is_producer, why_own_forward_binds
from normsmith.anatomy.locations import Locations, find
from normsmith.anatomy.other_libraries import is_fixed
from normsmith.anatomy.read_batch_norm import read_batch_norm
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.select import Only, selected
from normsmith.anatomy.trace import trace
from normsmith.errors import SurgeryError
from normsmith.layers.ours import is_ours
from normsmith.surgery.operations.fold.fold import build as build_fold
from normsmith.surgery.operations.fold.fold import find_pairs
from normsmith.surgery.placement.bias import Biases, layers_that_need_a_bias
from normsmith.surgery.placement.installer import Installer
from normsmith.surgery.placement.stand_in import comes_right_after_a_producer
from normsmith.surgery.plans.operation import Decisions, operation
from normsmith.surgery.plans.plan import Change, Plan
from normsmith.surgery.plans.verify import Expectation
from normsmith.surgery.targets.activations import activation_of


def strip(
    model: nn.Module,
    *,
    fold: bool = False,
    batch: Any = None,
    forward: Forward = call,
    only: Only = None,
) -> Plan:
    """Plan to take the norms out of a model.

    Batch, instance, layer, group and RMS norms and normsmith's own go, with their affine and statistics, and what
    they did goes with them; or, with `fold`, is done by the weights beside them. In a norm's place stays an
    `nn.Identity`, or its activation where the two were one layer, so that no other key of the state dict changes and
    no forward misses it; norms that `insert` has put in go without trace (folded ones leave their identity). Where
    code writes in place to a norm's result (`nn.ReLU(inplace=True)`, `x += y`) and others would see it, a `Copied`
    stays, an identity that returns a copy; so it does where dynamic code cannot be followed without a batch, and the
    norm is not right after a linear layer or convolution.

    Norms of other libraries and of your own go too, if they are known as `convert` knows them, or do nothing but
    normalise when they are tried with a few numbers. A fixed scale and shift is no norm and stays, but folds.

    A linear layer or convolution without a bias right before a norm that had one gets a bias again, of zeros. A
    model without norms gives an empty plan.

    Args:
        fold: keep the outputs in evaluation as they are: batch norms are folded, as `surgery.fold` does, and all that
            cannot be folded exactly is refused.
        batch, forward: an input, to follow one forward; needed where a norm has a bias, a layer has none, and the
            code is dynamic, so that it is not known whether the one is after the other, or where a norm of normsmith
            with an activation may be given a residual; else it tells where copies are needed.
        only: paths of norms, patterns of paths, or a function (path, module) → bool.

    Raises:
        SurgeryError: the model has to be followed and cannot be.

    >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    >>> strip(model).apply()
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): Identity()
      (2): ReLU()
      (3): Linear(in_features=8, out_features=2, bias=True)
    )
    """
    if fold:
        return build_fold(model, **_find_folds(model, batch, forward, only))
    return build(model, **_find(model, batch, forward, only))


def _find(model: nn.Module, batch: Any, forward: Forward, only: Only) -> Decisions:
    """The norms that can go, and the layers before them that then need a bias."""
    locations = Locations(model)
    wanted = _wanted(locations, only)
    refusals = [_refusal(locations, norm) for norm in wanted]
    going = [norm for norm, refusal in zip(wanted, refusals, strict=True) if refusal is None]
    biases, kept = list[dict[str, str]](), list(_fixed(locations, only))
    needed = _may_need_a_bias(model, going) or any(_may_take_a_residual(norm) for norm in going)
    graph = _graph(model, batch, forward, needed=needed) if going else None
    used = [None if graph is None else _used_elsewhere(graph, locations, norm) for norm in going]
    refusals += used
    going = [norm for norm, refusal in zip(going, used, strict=True) if refusal is None]
    if graph is not None:
        several = [norm for norm in going if any(len(event.sources) > 1 for event in graph.of(norm))]
        refusals += [Refusal(locations.paths[norm][0], _SEVERAL) for norm in several]
        going = [norm for norm in going if norm not in several]
        for layer, after in layers_that_need_a_bias(graph, set(going)):
            path = locations.paths[layer][0]
            if after is None:
                kept.append(Remark(path, "it has no bias still: what it puts out goes elsewhere too"))
            else:
                row = {"layer": path, "norm": type(after).__name__, "path": locations.paths[after][0]}
                biases.append(row)
    return {
        "norms": [locations.paths[norm][0] for norm in going],
        "biases": biases,
        "copies": [
            locations.paths[norm][0] for norm in going if _needs_a_copy(graph, locations, norm, going)
        ],
        "refusals": [asdict(refusal) for refusal in refusals if refusal is not None],
        "kept": [asdict(remark) for remark in kept],
    }


_SEVERAL = (
    "it is called with several tensors (beside its input a mask, weights or a residual), and what stays in its place "
    "takes one"
)


@operation("strip", find=_find)
def build(
    model: nn.Module,
    norms: Sequence[str],
    biases: Sequence[Mapping[str, str]] = (),
    refusals: Sequence[Mapping[str, str]] = (),
    kept: Sequence[Mapping[str, str]] = (),
    copies: Sequence[str] = (),
) -> Plan:
    """Plan to take out the norms at some paths, and to give layers a bias, each with the norm after it: kind and path.

    Plans that an earlier version has saved have no path there.

    `copies`: the norms whose stand-in returns a copy of what it takes.

    Raises:
        SurgeryError: the model does not have the modules.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    >>> build(model, ["1"]).apply()[1]
    Identity()
    """
    locations = Locations(model)
    installer, restored, changes = Installer(model, locations), Biases(model), list[Change]()
    for path in dict.fromkeys(norms):
        norm = find(model, path)
        empty = installer.remove(norm, copies=path in copies, activation=_activation(norm))
        first, *also = locations.paths[norm]
        changes.append(Change(first, describe_module(norm), empty, "asked for", tuple(also)))
    for row in biases:
        after = find(model, row["path"]) if "path" in row else None
        changes += restored.restore(row["layer"], row["norm"], after)
    return Plan(
        "without norms",
        model,
        tuple(changes),
        tuple(Refusal(**row) for row in refusals),
        tuple(Remark(**row) for row in kept),
        edits=(*restored.edits, *installer.edits),
        expects=Expectation() if changes else Expectation("same", "same"),
    )


def _find_folds(model: nn.Module, batch: Any, forward: Forward, only: Only) -> Decisions:
    """What `surgery.fold` decides for the batch norms; all other norms are refused."""
    locations = Locations(model)
    wanted = _wanted(locations, only)
    fixed = [m for m in selected(locations.paths, only, None, None) if is_fixed(m) and m not in wanted]
    foldable = {norm for norm in (*wanted, *fixed) if is_batch_norm(norm) or is_fixed(norm)}
    decisions: Decisions = {"pairs": [], "refusals": []}
    if foldable:
        decisions = find_pairs(model, batch, forward, lambda _, module: module in foldable)
    for norm in wanted:
        if norm not in foldable:
            decisions["refusals"].append(asdict(Refusal(locations.paths[norm][0], _why_no_weights(norm))))
    return decisions


def _why_no_weights(norm: nn.Module) -> str:
    """Why no weights can do the work of a norm that is no batch norm."""
    kind, behaviour = type(norm).__name__, behaviour_of(norm)
    if behaviour is not None:
        return behaviour.text
    if has_own_forward(norm):
        return why_own_forward_binds(norm)
    if is_ours(type(norm)) or getattr(norm, "running_mean", None) is not None:
        return f"{kind} is no batch norm, and fold reads batch norms alone"
    return f"{kind} goes by each sample's own statistics, which no weights can"


def _graph(model: nn.Module, batch: Any, forward: Forward, *, needed: bool) -> Graph | None:
    """The graph of the forward; None where it cannot be followed without a batch, and need not be."""
    if batch is not None or needed:
        return trace(model, batch, forward=forward)
    try:
        return trace(model)
    except SurgeryError:
        return None


def _used_elsewhere(graph: Graph, locations: Locations, norm: nn.Module) -> Refusal | None:
    """Why a norm must stay because others compute with its tensors, if so."""
    paths = locations.paths[norm]
    reason = used_elsewhere(graph, norm, paths)
    return None if reason is None else Refusal(paths[0], reason)


def _needs_a_copy(graph: Graph | None, locations: Locations, norm: nn.Module, going: list[nn.Module]) -> bool:
    """Whether something may write in place to what a norm has returned, and others would see it."""
    if graph is not None and graph.of(norm):
        return any(needs_a_copy(graph, e, lambda source: source.module in going) for e in graph.of(norm))
    return not all(comes_right_after_a_producer(*holder) for holder in locations.holders[norm])


def _wanted(locations: Locations, only: Only) -> list[nn.Module]:
    """The norms that are selected, those of other libraries too."""
    norms = {
        module: paths
        for module, paths in locations.paths.items()
        if is_norm(module) or is_batch_norm(module) or _is_called_norm(module)
    }
    return selected(norms, only, None, None)


def _is_called_norm(module: nn.Module) -> bool:
    """Another library's layer that is called a norm, and by what it does is neither a norm nor a scale and shift."""
    kind = type(module)
    return (
        "Norm" in kind.__name__
        and behaviour_of(module) is None
        and not kind.__module__.startswith(("torch.", "normsmith."))
        and not children_of(module)
        and bool(parameters_of(module) or buffers_of(module))
    )


def _refusal(locations: Locations, norm: nn.Module) -> Refusal | None:
    """Why a norm cannot be taken out, if so."""
    path, reason = locations.paths[norm][0], locations.why_not_replaceable(norm, "stripping")
    if isinstance(norm, LazyModuleMixin):
        reason = "it has no channels yet (lazy); run the model once"
    elif reason is None:
        more = _why_more(norm) if has_own_forward(norm) else None
        reason = more or locations.code.why_bound(norm, nn.Identity())
    return None if reason is None else Refusal(path, reason)


def _why_more(norm: nn.Module) -> str | None:
    """Why a norm with somebody's forward may do more than normalise; None where it is read, or a probe shows it."""
    if behaviour_of(norm) is not None:
        return None
    if is_batch_norm(norm):
        read = read_batch_norm(norm)
        return read.reason if isinstance(read, Refusal) else None
    return why_own_forward_binds(norm)


def _fixed(locations: Locations, only: Only) -> Iterator[Remark]:
    """Scales and shifts of other classes, which are no norms."""
    for module in selected(locations.paths, only, None, None):
        if not is_norm(module) and (behaviour := behaviour_of(module)) is not None:
            yield Remark(locations.paths[module][0], f"{behaviour.text}: it is no norm")


def _activation(norm: nn.Module) -> nn.Module | None:
    """The activation that a norm is fused with, by itself."""
    read = read_batch_norm(norm) if is_batch_norm(norm) else None
    return activation_of(read) if isinstance(read, BatchNorm) else None


def _may_take_a_residual(norm: nn.Module) -> bool:
    return getattr(norm, "activation", None) is not None and is_ours(type(norm))


def _may_need_a_bias(model: nn.Module, norms: list[nn.Module]) -> bool:
    bare = any(is_producer(m) and getattr(m, "bias", None) is None for m in model.modules())
    return bare and any(getattr(norm, "bias", None) is not None for norm in norms)
