"""Put norms before or after the activations of a model that has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from normsmith.anatomy.describe import describe_module
from normsmith.anatomy.forward import Forward, call
from normsmith.anatomy.locations import Locations, find
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.select import Only
from normsmith.anatomy.trace import trace
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery.placement.bias import Biases
from normsmith.surgery.placement.installer import Installer
from normsmith.surgery.placement.places import Place, Places
from normsmith.surgery.placement.search import Search
from normsmith.surgery.plans.edits import Edit, FollowMode
from normsmith.surgery.plans.operation import Decisions, operation
from normsmith.surgery.plans.plan import Change, Plan
from normsmith.surgery.plans.verify import Expectation
from normsmith.surgery.targets.factory import Norm, check_norm, make_norm

_LOOKED_FOR = (
    "looked for nn.ReLU, nn.GELU, F.relu, torch.tanh and the like, with layers that have weights after them"
)


def insert(
    model: nn.Module,
    norm: Norm,
    where: str = "before",
    *,
    batch: Any = None,
    forward: Forward = call,
    only: Only = None,
    **options: Any,
) -> Plan:
    """Plan a norm before or after each activation of a model.

        before: act(norm(W·x))          after: norm(act(W·x + b))

    `norm` is "batch", "renorm", "layer", "group" (`make_norm` says which layer each is) with `options` for
    its constructor (`ghost_batch_size`, `total_steps`, `eps`, …), or a callable (num_features, layer) → module.
    Each norm has the dtype, device and mode of the layer that feeds it.

    Which activations: modules and functions (`F.relu`) that layers with weights follow; those at the end are the
    network's output and get none, as do gates (squeeze and excitation), which only multiply. Recurrent layers of
    torch's: "after" normalises the sequence they put out.

    Residual blocks keep their identity path: where an activation follows an addition, "before" puts the norm at the
    branch's end, act(x + norm(f(x))); where an activation's result is also added as it is, "after" puts it at the
    branch's begin, x + f(norm(x)).

    No key of the state dict changes. Within an `nn.Sequential` a norm is a child of its own, named after its
    neighbour ("1_norm"); in a place that `strip` has left (an `nn.Identity`) it takes that; elsewhere it is a child
    ("norm", "input_norm") of the layer, activation or block beside it, called by a hook. The plan says which.

    A batch norm or renorm right after a linear layer or convolution subtracts whatever constant its bias
    adds, so that bias is removed; the weight stays the same tensor. Layer and group norm subtract a mean over
    channels, in which a bias of each channel is no constant: there it stays.

    Args:
        where: "before" or "after" the activation.
        batch, forward: an input, to follow one forward; needed where code is dynamic, and for recurrent layers.
            Without it the model is followed by symbols, and results of `nn.Linear` are taken to be (N, C); with it
            (N, …, C) is seen and normalised over all but the last dimension.
        only: paths (patterns as "layer1.*", or a function of path and module) of the activations, or of the modules
            whose forward calls them.

    Raises:
        InputError: an unknown norm or `where`, options beside a callable.
        SurgeryError: the model has no activation to put a norm at, or cannot be followed. What cannot be done is in
            the plan's refusals.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> insert(model, "layer").apply()
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1_norm): LayerNorm((8,), eps=1e-05, ...)
      (1): ReLU()
      (2): Linear(in_features=8, out_features=2, bias=True)
    )
    """
    return build(model, **_find(model, norm, where, batch, forward, only, options))


def _find(
    model: nn.Module,
    norm: Norm,
    where: str,
    batch: Any,
    forward: Forward,
    only: Only,
    options: dict[str, Any],
) -> Decisions:
    """The places for norms beside a model's activations, and the activations that get none."""
    check_norm(norm, options)
    if where not in {"before", "after"}:
        raise InputError(f"where must be 'before' or 'after', got {where!r}")
    search = Search(Places(model, trace(model, batch, forward=forward)), where, only)
    search.run()
    if not (search.places or search.refusals):
        seen = "".join(f"; {remark.path or 'there'}: {remark.reason}" for remark in search.kept[:3])
        raise SurgeryError(f"found no activation in {type(model).__name__}: {_LOOKED_FOR}{seen}")
    return {
        "norm": norm,
        "where": where,
        "places": [asdict(place) for place in search.places],
        "refusals": [asdict(refusal) for refusal in search.refusals],
        "kept": [asdict(remark) for remark in search.kept],
        "options": options,
    }


@operation("insert", find=_find)
def build(
    model: nn.Module,
    norm: Norm,
    where: str,
    places: Sequence[Mapping[str, Any]],
    refusals: Sequence[Mapping[str, str]] = (),
    kept: Sequence[Mapping[str, str]] = (),
    options: dict[str, Any] | None = None,
) -> Plan:
    """Plan a norm at each of some places, given as `dataclasses.asdict` writes a `Place`.

    Raises:
        SurgeryError: the model does not have the modules, or the norm cannot be made.

    >>> place = {"host": "1", "side": "before", "in_sequence": True, "signal": {"features": 8}, "like": "0", "why": ""}
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> list(dict(build(model, "layer", "before", [place]).apply().named_children()))
    ['0', '1_norm', '1', '2']
    """
    locations = Locations(model)
    installer, biases = Installer(model, locations), Biases(model)
    alike, changes, made = list[Edit](), list[Change](), set[nn.Module]()
    for place in map(Place.of, places):
        host, layer = find(model, place.host), find(model, place.like)
        new = make_norm(norm, place.signal, layer, options or {})
        if new in made or new in locations.paths:
            raise SurgeryError(
                f"norm must make a new module at each call, got the same {type(new).__name__} twice"
            )
        made.add(new)
        alike.append(FollowMode(layer, new))
        path = installer.put(place, new)
        changes.append(Change(place.host, describe_module(host), _after(place, host, new, path), place.why))
        changes += biases.remove_if_redundant(place.bias, new)
    name = norm if isinstance(norm, str) else getattr(norm, "__name__", type(norm).__name__)
    return Plan(
        f"{name if name.endswith('norm') else f'{name} norm'} {where} each activation",
        model,
        tuple(changes),
        tuple(Refusal(**row) for row in refusals),
        (*(Remark(**row) for row in kept), *biases.kept),
        edits=(*biases.edits, *alike, *installer.edits),
        expects=Expectation("may differ", "differs" if changes else "same"),
    )


def _after(place: Place, host: nn.Module, norm: nn.Module, path: str) -> str:
    """What stands at a place once the norm is there, in words."""
    if place.side == "replaces":
        return describe_module(norm)
    order = (
        [describe_module(norm), describe_module(host)]
        if place.side == "before"
        else [describe_module(host), describe_module(norm)]
    )
    return f"{', '.join(order)}; the norm is {path}"
