"""Take the norms out of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from normsmith.anatomy.batch_norms import is_batch_norm
from normsmith.anatomy.describe import shown
from normsmith.anatomy.forward import Forward, call
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.kinds import has_own_forward, is_norm, is_producer
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.remark import Remark
from normsmith.anatomy.select import Only, selected
from normsmith.anatomy.trace import trace
from normsmith.surgery.operations.fold.fold import fold as plan_fold
from normsmith.surgery.operations.fold.fold import fold_pairs
from normsmith.surgery.placement.bias import restored_bias
from normsmith.surgery.placement.installer import Installer, find
from normsmith.surgery.plans.edits import Edit
from normsmith.surgery.plans.operation import operation
from normsmith.surgery.plans.plan import Change, Plan
from normsmith.surgery.plans.verify import Expectation


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
    `nn.Identity`, so that no other key of the state dict changes and no forward misses it; norms that `insert` has
    put in go without trace (folded ones leave their identity).

    A linear layer or convolution without a bias right before a norm that had one gets a bias again, of zeros. A
    model without norms gives an empty plan.

    Args:
        fold: keep the outputs in evaluation as they are: batch norms are folded, as `surgery.fold` does, and all that
            cannot be folded exactly is refused.
        batch, forward: an input, to follow one forward; needed where a norm has a bias, a layer has none, and the
            code is dynamic, so that it is not known whether the one is after the other.
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
    locations = Locations(model)
    norms = [module for module in locations.paths if is_norm(module) or _is_foreign(module)]
    wanted = selected({module: locations.paths[module] for module in norms}, only, None, None)
    if fold:
        return _folded(model, locations, wanted, batch, forward)
    refusals = [(locations.paths[m][0], why) for m in wanted if (why := _obstacle(locations, m)) is not None]
    refused = {path for path, _ in refusals}
    stripped_ = [module for module in wanted if locations.paths[module][0] not in refused]
    biases, kept = list[tuple[str, str]](), list[tuple[str, str]]()
    if _may_need_a_bias(model, stripped_):
        graph = trace(model, batch, forward=forward)
        for layer, after in _bare_layers(graph, set(stripped_)):
            if after is None:
                kept.append(
                    (locations.paths[layer][0], "it has no bias still: what it puts out goes elsewhere too")
                )
            else:
                biases.append((locations.paths[layer][0], after))
    return stripped(model, [locations.paths[module][0] for module in stripped_], biases, refusals, kept)


@operation
def stripped(
    model: nn.Module,
    norms: Sequence[str],
    biases: Sequence[Sequence[str]] = (),
    refusals: Sequence[Sequence[str]] = (),
    kept: Sequence[Sequence[str]] = (),
) -> Plan:
    """Plan to take out the norms at some paths, and to give some layers a bias: (path, kind of the norm after it).

    What plans of `strip` are repeated by, without data. Raises SurgeryError for a model that has not the modules.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    >>> stripped(model, ["1"]).apply()[1]
    Identity()
    """
    locations = Locations(model)
    installer, changes, edits = Installer(model, locations), list[Change](), list[Edit]()
    for path in norms:
        norm = find(model, path)
        empty = installer.clear(norm)
        first, *also = locations.paths[norm]
        changes.append(Change(first, shown(norm), empty, "asked for", tuple(also)))
    for path, norm_kind in biases:
        change, edit = restored_bias(path, find(model, path), norm_kind)
        changes.append(change)
        edits.append(edit)
    return Plan(
        "without norms",
        model,
        tuple(changes),
        tuple(Remark(*refusal) for refusal in refusals),
        tuple(Remark(*remark) for remark in kept),
        edits=(*edits, *installer.edits),
        expects=Expectation() if changes else Expectation("same", "same"),
    )


def _folded(
    model: nn.Module, locations: Locations, wanted: list[nn.Module], batch: Any, forward: Forward
) -> Plan:
    foldable = {module for module in wanted if is_batch_norm(module)}
    pairs, refused = [], dict[str, str]()
    if foldable:
        found = plan_fold(model, batch, forward=forward, only=lambda _, module: module in foldable)
        assert found.operation is not None
        pairs, refused = found.operation.arguments["pairs"], dict(found.operation.arguments["refused"])
    for norm in wanted:
        if norm not in foldable:
            kind = type(norm).__name__
            refused[locations.paths[norm][0]] = (
                f"{kind} goes by each sample's own statistics, which no weights can"
            )
    return fold_pairs(model, pairs, refused)


def _is_foreign(module: nn.Module) -> bool:
    """Another library's layer that is called a norm and is none of torch's."""
    kind = type(module)
    return (
        not is_norm(module)
        and "Norm" in kind.__name__
        and not kind.__module__.startswith(("torch.", "normsmith."))
        and not module._modules
        and bool(module._parameters or module._buffers)
    )


def _obstacle(locations: Locations, norm: nn.Module) -> str | None:
    kind = type(norm).__name__
    if isinstance(norm, LazyModuleMixin):
        return "it has no channels yet (lazy); run the model once"
    if _is_foreign(norm) or has_own_forward(norm):
        return f"{kind} has a forward of its own and may do more than normalise"
    return locations.held_by(norm, "stripping")


def _may_need_a_bias(model: nn.Module, norms: list[nn.Module]) -> bool:
    bare = any(is_producer(m) and getattr(m, "bias", None) is None for m in model.modules())
    return bare and any(getattr(norm, "bias", None) is not None for norm in norms)


def _bare_layers(graph: Graph, norms: set[nn.Module]) -> Iterator[tuple[nn.Module, str | None]]:
    """Layers without a bias right before norms that have one, with the norm's kind; None if not at each call."""
    layers = dict.fromkeys(e.module for e in graph.having("producer") if e.module is not None)
    for layer in layers:
        if getattr(layer, "bias", None) is not None:
            continue
        consumers = [consumer for event in graph.of(layer) for consumer in _consumers_of(graph, event)]
        found = [
            t.module for t in consumers if t.module in norms and getattr(t.module, "bias", None) is not None
        ]
        if found:
            elsewhere = len(found) < len(consumers) or any(graph.is_output(e) for e in graph.of(layer))
            yield layer, None if elsewhere else type(found[0]).__name__


def _consumers_of(graph: Graph, event: Event) -> Iterator[Event]:
    for consumer in graph.consumers(event):
        if type(consumer.module) is nn.Identity:
            yield from _consumers_of(graph, consumer)
        else:
            yield consumer
