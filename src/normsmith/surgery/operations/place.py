"""Move the norms of a model to the other side of their activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from normsmith._torch import TorchBatchNorm
from normsmith.anatomy.aliasing import needs_a_copy, used_elsewhere
from normsmith.anatomy.broken_statistics import statistics_remarks
from normsmith.anatomy.describe import describe_module, label
from normsmith.anatomy.forward import Forward, call
from normsmith.anatomy.graph import Event, Graph, rank_of
from normsmith.anatomy.hooks import Attached, attached_norms
from normsmith.anatomy.kinds import has_own_forward, is_norm, why_own_forward_binds
from normsmith.anatomy.locations import Locations, find
from normsmith.anatomy.passing import (
    effective_consumers,
    effective_source,
    norm_after,
    norm_before,
    passed_by,
)
from normsmith.anatomy.read_batch_norm import fused_activation
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.residual import closed_by, residual_form
from normsmith.anatomy.select import Only, selected
from normsmith.anatomy.trace import trace
from normsmith.errors import InputError
from normsmith.surgery.placement.bias import Biases, layer_that_needs_a_bias
from normsmith.surgery.placement.installer import Installer
from normsmith.surgery.placement.places import Place, Places
from normsmith.surgery.placement.search import Search
from normsmith.surgery.plans.operation import Decisions, operation
from normsmith.surgery.plans.plan import Change, Plan
from normsmith.surgery.plans.verify import Expectation


def place(
    model: nn.Module,
    where: str = "after",
    *,
    batch: Any = None,
    forward: Forward = call,
    only: Only = None,
) -> Plan:
    """Plan to move the norms of a model to the other side of the activation that is beside them.

        "after": act(norm(W·x)) → norm(act(W·x + b))          "before": the other way round

    A norm stays the same module: tensors, hooks, mode and optimizer state. Its statistics are those of its old place
    until they are measured (`recalibrate`) or trained anew. In an `nn.Sequential` it changes its position and keeps
    its name; elsewhere an `nn.Identity` stays in its place, the norm becomes a child of the layer or activation
    beside its new one, and `renamed` says how its keys change; no other key does. A layer after which a norm with a
    bias goes away gets a bias of zeros; one before which a batch norm comes loses its redundant one.

    Norms that are on that side already, or have no activation beside them, stay. What would have to cross an addition
    (the end of a residual branch, x + norm(f(x))) is refused, with all else that cannot be done: where others take what
    the norm would change, be it through an identity, dropout, pooling or reshape, and where a norm is there already.
    After an activation that is a function, the norm comes before the layer that takes its result, through poolings too;
    a batch norm of images takes what `x.mean((2, 3))` leaves as images of one position.

    Args:
        where: "before" or "after" the activation.
        batch, forward: an input, to follow one forward; needed where code is dynamic.
        only: paths of norms, patterns of paths, or a function (path, module) → bool.

    Raises:
        InputError: another `where`.
        SurgeryError: the model cannot be followed.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    >>> [name for name, _ in place(model, "after").apply().named_children()]
    ['0', '2', '1', '3']
    """
    if where not in {"before", "after"}:
        raise InputError(f"where must be 'before' or 'after', got {where!r}")
    return build(model, **_find(model, where, batch, forward, only))


def _find(model: nn.Module, where: str, batch: Any, forward: Forward, only: Only) -> Decisions:
    """Which norms move to which places, and which stay."""
    moves = _Moves(Places(model, trace(model, batch, forward=forward)), where)
    norms = {module: paths for module, paths in moves.at.locations.paths.items() if is_norm(module)}
    for norm in selected(norms, only, None, None):
        activation = fused_activation(norm)
        if activation is None:
            moves.look_at(norm)
        else:
            moves.leave(norm, activation)
    return {
        "where": where,
        "moves": moves.rows,
        "refusals": [asdict(refusal) for refusal in moves.refusals],
        "kept": [asdict(remark) for remark in moves.kept],
    }


@operation("place", find=_find)
def build(
    model: nn.Module,
    where: str,
    moves: Sequence[Mapping[str, Any]],
    refusals: Sequence[Mapping[str, str]] = (),
    kept: Sequence[Mapping[str, str]] = (),
) -> Plan:
    """Plan to move norms, each given by its path, its new place, and the path of a layer that then needs a bias.

    Raises:
        SurgeryError: the model does not have the modules.

    >>> place = {"host": "2", "side": "after", "in_sequence": True, "signal": {"features": 8}, "like": "", "why": ""}
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    >>> build(model, "after", [{"norm": "1", "place": place, "needs_bias": None}]).apply()[2]
    BatchNorm1d(8, eps=1e-05, ...)
    """
    locations = Locations(model)
    installer, biases = Installer(model, locations), Biases(model)
    changes, renamed = list[Change](), dict[str, str]()
    for row in moves:
        place, path, norm = Place.of(row["place"]), row["norm"], find(model, row["norm"])
        copies = bool(row.get("copies"))
        new = installer.move(norm, place, copies=copies)
        kind = describe_module(norm)
        left = ", with a copy in its old place" if copies else ""
        changes.append(Change(path, kind, f"{kind} {_beside(place)}, as {new}{left}", place.why))
        if new != path:
            renamed[path] = new
            changes += _of_host(place, find(model, place.host), kind)
        if row["needs_bias"] is not None:
            changes += biases.restore(row["needs_bias"], type(norm).__name__, norm)
        else:
            changes += biases.remove_if_redundant(place.bias, norm)
    remarks = [*(Remark(**row) for row in kept), *biases.kept]
    if changes:
        remarks.append(Remark("", "statistics are those of the norms' old places: recalibrate, or train on"))
    return Plan(
        f"norms {where} the activations",
        model,
        tuple(changes),
        tuple(Refusal(**row) for row in refusals),
        tuple(remarks),
        renamed,
        (*biases.edits, *installer.edits),
        Expectation() if changes else Expectation("same", "same"),
        warnings=statistics_remarks(locations, (find(model, row["norm"]) for row in moves)),
    )


@dataclass
class _Moves:
    """Every norm of a model, with where it goes, or why it stays."""

    at: Places
    where: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    kept: list[Remark] = field(default_factory=list)

    def look_at(self, norm: nn.Module) -> None:
        path = self.at.locations.paths[norm][0]
        reason = self._read(norm) or self._obstacle(norm)
        if reason is not None:
            self.refusals.append(Refusal(path, reason))
            return
        (event,) = self.at.graph.of(norm)
        source, result = self._around(event, norm)
        activation = self._activation(event, source, result)
        if isinstance(activation, Refusal):
            self.refusals.append(activation)
            return
        if isinstance(activation, Remark):
            self.kept.append(activation)
            return
        results = list(self._places(source, activation))
        places = [result for result in results if isinstance(result, Place)]
        refusals = [result for result in results if isinstance(result, Refusal)]
        if refusals:
            self.refusals.append(refusals[0].at(path))
            return
        if len(places) > 1:
            reason = f"what {label(activation)} puts out goes to several layers, and one norm cannot be before each"
            self.refusals.append(Refusal(path, reason))
            return
        fitted = self._fitted(event, norm, places[0])
        if isinstance(fitted, Refusal):
            self.refusals.append(fitted)
            return
        needs_bias = layer_that_needs_a_bias(self.at.graph, event, source) if self.where == "after" else None
        copies = needs_a_copy(self.at.graph, event, lambda _: False)
        row = {"norm": path, "place": asdict(fitted), "needs_bias": needs_bias}
        self.rows.append(row | {"copies": True} if copies else row)

    def leave(self, norm: nn.Module, activation: str) -> None:
        """Note a norm that is in one layer with its activation, which comes after it."""
        path = self.at.locations.paths[norm][0]
        if self.where == "before":
            reason = f"it is before its activation already, {activation}, in one layer with it"
            self.kept.append(Remark(path, reason))
        else:
            reason = f"it is in one layer with its activation, {activation}; strip leaves that one, and insert puts a "
            self.refusals.append(Refusal(path, reason + "norm after it"))

    def _obstacle(self, norm: nn.Module) -> str | None:
        locations = self.at.locations
        if has_own_forward(norm):
            return why_own_forward_binds(norm)
        if len(locations.holders[norm]) != 1:
            return "it is under several names, or is the model itself"
        if (held := locations.why_not_replaceable(norm, "moving")) is not None:
            return held
        calls = len(self.at.graph.of(norm))
        if calls != 1 or self.at.graph.calls.get(norm) != 1:
            return (
                f"the forward calls it {calls} times, each of them another place"
                if calls
                else "this forward does not come by it"
            )
        return None

    def _read(self, norm: nn.Module) -> str | None:
        """Why a norm must stay where its holder finds what it reads or computes with, if so."""
        read = self.at.locations.code.why_bound(norm, nn.Identity())
        return read or used_elsewhere(self.at.graph, norm, self.at.locations.paths[norm])

    def _around(self, event: Event, norm: nn.Module) -> tuple[Event, Event]:
        """The events whose results a norm takes and puts out; what a hook moves for it is left out."""
        source, result, hook = event.sources[0], event, self._hook(norm)
        steps = 0 if hook is None else hook.moves_channels(norm) + bool(hook.unsqueeze)
        for _ in range(steps):
            source, result = source.sources[0], self.at.graph.consumers(result)[0]
        return source, result

    def _hook(self, norm: nn.Module) -> Attached | None:
        """The hook by which a norm is attached, if it is."""
        ((parent, name),) = self.at.locations.holders[norm]
        return next((hook for hook in attached_norms(parent).values() if hook.name == name), None)

    def _activation(self, event: Event, source: Event, result: Event) -> Event | Remark:
        """The activation that the norm called at `event` is to cross, or why it stays or cannot move."""
        graph, path = self.at.graph, event.path
        consumers, source = list(effective_consumers(graph, result)), effective_source(source)
        after, before = [t for t in consumers if t.role == "activation"], source.role == "activation"
        # a norm between two activations is that of the one after it
        wanted, other = (
            (bool(after), before) if self.where == "after" else (before and not after, bool(after))
        )
        if wanted:
            return after[0] if self.where == "after" else source
        if other:
            return Remark(path, f"it is {self.where} its activation already")
        adds = [e for e in consumers if e.role == "add" and _leads_to_an_activation(graph, e)]
        if self.where == "after" and adds:
            block = closed_by(graph, adds)
            shape = f" of a residual block, {residual_form(graph, block)}" if block is not None else ""
            return Refusal(path, f"it would have to cross the addition at the end{shape}")
        beside = consumers if self.where == "after" else [source]
        names = ", ".join(dict.fromkeys(label(e) for e in beside)) or "nothing"
        return Remark(path, f"no activation is right {self.where} it, but {names}")

    def _places(self, source: Event, activation: Event) -> Iterator[Place | Refusal]:
        """The places on the other side of the activation; `source` is the event whose result the norm takes."""
        graph, after = self.at.graph, self.where == "after"
        crossed = passed_by(activation.sources[0] if after else source)
        shared = next((e for e in reversed(crossed) if graph.is_used_elsewhere(e)), None)
        other = norm_after(graph, activation) if after else norm_before(activation.sources[0])
        if shared is not None:
            reason = f"what {label(shared)} puts out goes to others too, for which it would change"
            yield Refusal(shared.path, reason)
        elif other is not None:
            reason = f"{label(other)} is {self.where} {label(activation)} already, and two norms would be in one place"
            yield Refusal(other.path, reason)
        elif after:
            yield from Search(self.at, self.where, None).after(activation)
        else:
            why = f"before {label(activation)}"
            yield Search(self.at, self.where, None).between(activation.sources[0], activation, why)

    def _fitted(self, event: Event, norm: nn.Module, place: Place) -> Place | Refusal:
        """The place, with channels and dimensions as this norm takes them, or why it cannot take what is there."""
        hook, rank, there = self._hook(norm), rank_of(event), place.signal.spatial + 2
        place = replace(
            place, signal=replace(place.signal, channels_last=hook is not None and hook.channels_last)
        )
        by_channels = isinstance(norm, (nn.LayerNorm, nn.RMSNorm)) and len(norm.normalized_shape) == 1
        if rank is None or rank == there or by_channels or isinstance(norm, nn.SyncBatchNorm):
            return place
        if isinstance(norm, TorchBatchNorm) and rank > there:
            side = "before" if place.side == "replaces" else place.side
            return replace(place, side=side, in_sequence=False, unsqueeze=rank - there)
        if isinstance(norm, TorchBatchNorm) and (rank, there) == (2, 3):
            return place
        kind = type(norm).__name__
        reason = f"{kind} takes results of {rank} dimensions here, and {self.where} the activation they have {there}"
        return Refusal(event.path, reason)


def _of_host(place: Place, host: nn.Module, norm: str) -> Iterator[Change]:
    """What becomes of the module that gets the norm, or that the norm replaces."""
    if not place.in_sequence:
        new = norm if place.side == "replaces" else f"{describe_module(host)}, which calls the norm"
        yield Change(place.host, describe_module(host), new, "the norm's new place")


def _leads_to_an_activation(graph: Graph, add: Event) -> bool:
    """Whether an activation comes after an addition, or after others that take its result."""
    later = list(effective_consumers(graph, add))
    return any(
        e.role == "activation" or (e.role == "add" and _leads_to_an_activation(graph, e)) for e in later
    )


def _beside(place: Place) -> str:
    return f"in the place of {place.host}" if place.side == "replaces" else f"{place.side} {place.host}"
