"""Move the norms of a model to the other side of their activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normsmith.anatomy.describe import shown
from normsmith.anatomy.forward import Forward, call
from normsmith.anatomy.graph import Event
from normsmith.anatomy.hooks import hooks
from normsmith.anatomy.kinds import Signal, has_own_forward, is_norm, is_producer
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.remark import Remark
from normsmith.anatomy.residual import above, below, closed_by, form
from normsmith.anatomy.select import Only, selected
from normsmith.anatomy.trace import trace
from normsmith.errors import InputError
from normsmith.surgery.placement.bias import kept_bias, removed_bias, restored_bias, uses
from normsmith.surgery.placement.installer import Installer, find
from normsmith.surgery.placement.places import Place, Places, named
from normsmith.surgery.placement.search import Search
from normsmith.surgery.plans.edits import Edit
from normsmith.surgery.plans.operation import operation
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
    (the end of a residual branch, x + norm(f(x))) is refused, with all else that cannot be done.

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
    moves = _Moves(Places(model, trace(model, batch, forward=forward)), where)
    norms = {module: paths for module, paths in moves.at.locations.paths.items() if is_norm(module)}
    for norm in selected(norms, only, None, None):
        moves.look_at(norm)
    return placed(model, where, moves.rows, moves.refusals, moves.kept)


@operation
def placed(
    model: nn.Module,
    where: str,
    moves: Sequence[dict[str, Any]],
    refusals: Sequence[Sequence[str]] = (),
    kept: Sequence[Sequence[str]] = (),
) -> Plan:
    """Plan the moves of norms that `place` has found: what its plans are repeated by, without data.

    Raises SurgeryError for a model that has not the modules.

    >>> place = {"host": "2", "side": "after", "in_sequence": True, "signal": {"features": 8}, "like": "", "why": ""}
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    >>> placed(model, "after", [{"norm": "1", "place": place, "bare": None}]).apply()[2]
    BatchNorm1d(8, eps=1e-05, ...)
    """
    locations, held = Locations(model), uses(model)
    installer, changes, biases = Installer(model, locations), list[Change](), list[Edit]()
    remarks, renamed = [Remark(*remark) for remark in kept], dict[str, str]()
    for row in moves:
        place = Place(**{"bias": None, **row["place"], "signal": Signal(**row["place"]["signal"])})
        path, norm = row["norm"], find(model, row["norm"])
        new = installer.move(norm, place)
        if new != path:
            renamed[path] = new
        kind = shown(norm)
        changes.append(Change(path, kind, f"{kind} {place.side} {_host(place)}, as {new}", place.why))
        if new != path:
            changes += _of_host(place, find(model, place.host), kind)
        if (bare := row["bare"]) is not None:
            change, edit = restored_bias(bare, find(model, bare), type(norm).__name__)
        elif place.bias is None or not isinstance(norm, _BatchNorm):
            continue
        elif (remark := kept_bias(held, place.bias, find(model, place.bias))) is not None:
            remarks.append(remark)
            continue
        else:
            change, edit = removed_bias(place.bias, find(model, place.bias), norm)
        changes.append(change)
        biases.append(edit)
    if changes:
        remarks.append(Remark("", "statistics are those of the norms' old places: recalibrate, or train on"))
    return Plan(
        f"norms {where} the activations",
        model,
        tuple(changes),
        tuple(Remark(*refusal) for refusal in refusals),
        tuple(remarks),
        renamed,
        (*biases, *installer.edits),
        Expectation() if changes else Expectation("same", "same"),
    )


@dataclass
class _Moves:
    """Every norm, with where it goes."""

    at: Places
    where: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)

    def look_at(self, norm: nn.Module) -> None:
        path = self.at.locations.paths[norm][0]
        reason = self._obstacle(norm)
        if reason is not None:
            self.refusals.append((path, reason))
            return
        (event,) = self.at.graph.of(norm)
        activation = self._activation(event)
        if isinstance(activation, Remark):
            (self.refusals if activation.path == "refused" else self.kept).append((path, activation.reason))
            return
        found = list(self._places(event, activation))
        places = [place for place in found if isinstance(place, Place)]
        if len(found) > 1 and len(places) == len(found):
            reason = f"what {named(activation)} puts out goes to several layers, and one norm cannot be before each"
        else:
            reason = next((reason for reason in found if isinstance(reason, str)), None)
        if reason is not None:
            self.refusals.append((path, reason))
            return
        self.rows.append(
            {"norm": path, "place": asdict(self._as_of(norm, places[0])), "bare": self._bare(event)}
        )

    def _obstacle(self, norm: nn.Module) -> str | None:
        kind, locations = type(norm).__name__, self.at.locations
        if has_own_forward(norm):
            return f"{kind} has a forward of its own and may do more than normalise"
        if len(locations.holders[norm]) != 1:
            return "it is under several names, or is the model itself"
        if (held := locations.held_by(norm, "moving")) is not None:
            return held
        calls = len(self.at.graph.of(norm))
        if calls != 1 or self.at.graph.calls.get(norm) != 1:
            return (
                f"the forward calls it {calls} times, each of them another place"
                if calls
                else "this forward does not come by it"
            )
        return None

    def _activation(self, event: Event) -> Event | Remark:
        """The activation that the norm is to cross, or the remark why it does not move."""
        graph = self.at.graph
        consumers, source = list(below(graph, event)), above(event.sources[0])
        after, before = [t for t in consumers if t.role == "activation"], source.role == "activation"
        # a norm between two activations is that of the one after it
        wanted, other = (
            (bool(after), before) if self.where == "after" else (before and not after, bool(after))
        )
        if wanted:
            return after[0] if self.where == "after" else source
        if other:
            return Remark("kept", f"it is {self.where} its activation already")
        adds = [consumer for consumer in consumers if consumer.role == "add"]
        if self.where == "after" and adds:
            block = closed_by(graph, adds)
            shape = f" of a residual block, {form(graph, block)}" if block is not None else ""
            return Remark("refused", f"it would have to cross the addition at the end{shape}")
        beside = consumers if self.where == "after" else [source]
        found = ", ".join(dict.fromkeys(named(e) for e in beside)) or "nothing"
        return Remark(
            "kept",
            f"no activation is right {'after' if self.where == 'after' else 'before'} it, but {found}",
        )

    def _places(self, event: Event, activation: Event) -> Iterator[Place | str]:
        search = Search(self.at, self.where, None)
        crossed = event if self.where == "after" else activation
        if self.at.goes_on(crossed):
            yield f"what {named(crossed)} puts out goes to others too, for which it would change"
        elif self.where == "after":
            yield from search.after(activation)
        else:
            why = f"before {named(activation)}"
            yield search.between(activation.sources[0], activation, why)

    def _as_of(self, norm: nn.Module, place: Place) -> Place:
        """The place, with channels where this norm has them."""
        ((parent, name),) = self.at.locations.holders[norm]
        last = any(hook.name == name and hook.channels_last for hook in hooks(parent).values())
        return replace(place, signal=replace(place.signal, channels_last=last))

    def _bare(self, event: Event) -> str | None:
        """The path of the layer without a bias right before the norm, which has one and goes."""
        source = event.sources[0]
        while type(source.module) is nn.Identity and not self.at.goes_on(source):
            source = source.sources[0]
        layer = source.module
        bare = layer is not None and is_producer(layer) and getattr(layer, "bias", None) is None
        lonely = (
            not self.at.goes_on(source) and len(self.at.graph.of(layer)) == 1 if layer is not None else False
        )
        needs = self.where == "after" and getattr(event.module, "bias", None) is not None
        return source.path if bare and lonely and needs else None


def _of_host(place: Place, host: nn.Module, norm: str) -> Iterator[Change]:
    """What becomes of the module that gets the norm, or makes place for it."""
    if not place.in_sequence:
        new = norm if place.side == "replaces" else f"{shown(host)}, which calls the norm"
        yield Change(place.host, shown(host), new, "the norm's new place")


def _host(place: Place) -> str:
    return f"of {place.host}" if place.side == "replaces" else place.host
