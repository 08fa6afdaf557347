"""Remove channels whose γ says that they do little, with what their β still did moved into the next bias."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from torch import nn

from normsmith._choices import check_choice, is_number
from normsmith._text import count, path_text
from normsmith._torch import parameters_of
from normsmith.anatomy.batch_norms import BatchNorm, is_batch_norm, selected_batch_norms
from normsmith.anatomy.forward import Forward, call
from normsmith.anatomy.graph import Graph
from normsmith.anatomy.locations import Locations, find
from normsmith.anatomy.read_batch_norm import read_batch_norm
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.select import Only
from normsmith.anatomy.trace import trace
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery.operations.fold.obstacles import Owners, own_obstacles
from normsmith.surgery.operations.prune.channels import Channels
from normsmith.surgery.operations.prune.choice import choose
from normsmith.surgery.operations.prune.smaller import changes_of, cut_edits, savings_of
from normsmith.surgery.operations.prune.steps import Step, positions_of, steps_of, uncalled
from normsmith.surgery.operations.prune.trial import try_on
from normsmith.surgery.plans.operation import Decisions, operation
from normsmith.surgery.plans.plan import Plan
from normsmith.surgery.plans.verify import Expectation

Approximate = Literal["refuse", "allow"]


def prune(
    model: nn.Module,
    batch: Any,
    *,
    share: float | None = None,
    below: float | None = None,
    approximate: Approximate = "refuse",
    only: Only = None,
    forward: Forward = call,
) -> Plan:
    """Plan to remove channels whose |γ| is small, from their norms and from the layers before and after.

        γ = 0:  act(norm(x)) = act(β)        b ← b + Σ W·act(β)    for the layer that takes the channel

    With γ = 0 a channel is constant, and what the constant did goes into the bias of the next layer (a new one where
    there was none). The pruned network computes what the network with these γ set to 0 computes. That is exact unless
    act(β) ≠ 0 meets zero padding: a bias does not know the border. Channels that are added to each other, as in
    residual networks, go together, and only if all of their norms qualify: the largest |γ| decides. Followed are
    activations, poolings, dropout, sums, products, concatenations, flattening and slices.

    The plan is tried on the batch when it is made: where it says exact, the pruned network's outputs are those of the
    network with γ = 0. Its title says how many parameters and multiply-adds (of linear layers and convolutions, on this
    batch) it saves. Optimizers follow: their averages of what stays are kept. Copies (`copy`, `ema`) lose the same
    channels, each with its own β.

    Refused, with the reason, are channels that would have to go and cannot: those that reach the model's output or a
    call that is not followed, are taken beside the norm or without one, or go through grouped convolutions.

    Args:
        batch: an example; a forward is run to find out which channels belong together.
        share: remove this share of the channels, those with the smallest |γ| in the whole network, from 0 to 1. What
            goes together counts once.
        below: or remove all with a smaller |γ| than this. After training with an L1 penalty on γ, there are many.
        approximate: what to do with channels whose act(β) ≠ 0 meets zero padding: "refuse", or "allow", with a warning.
        only: patterns of paths of norms such as "layer1.*", or a function (path, module) → bool.
        forward: how the model is called with the batch.

    Raises:
        InputError: neither `share` nor `below`, both, or one out of range; no batch.
        SurgeryError: no norm can be pruned, a γ is not finite, the forward cannot be followed, or the smaller network
            does not run.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    >>> _ = nn.init.uniform_(model[1].weight)
    >>> pruned = prune(model, torch.randn(2, 3, 8, 8), share=0.25).apply()
    >>> pruned[0], pruned[3]
    (Conv2d(3, 6, kernel_size=(3, 3), stride=(1, 1)), Conv2d(6, 4, kernel_size=(3, 3), stride=(1, 1)))

    Source: Liu et al. (2017), "Learning Efficient Convolutional Networks through Network Slimming", arXiv:1708.06519.
    """
    check_choice("approximate", approximate, ("refuse", "allow"))
    _check_amount(share, below)
    if batch is None:
        raise InputError("prune: expected an example as batch, which a forward is run on, got None")
    decisions = find_channels(model, batch, share, below, approximate, only, forward)
    plan = build(model, **decisions)
    try_on(plan, decisions["removed"], batch, forward)
    return plan


def find_channels(
    model: nn.Module,
    batch: Any,
    share: float | None,
    below: float | None,
    approximate: Approximate,
    only: Only,
    forward: Forward,
) -> Decisions:
    """The channels of each norm that go, and how channels belong together."""
    locations = Locations(model)
    owners = Owners(locations)
    chosen = {owners.path(norm) for norm in selected_batch_norms(locations, "prune", only)}
    graph = trace(model, batch, forward=forward)
    norms, unread = _norms_of(model, graph)
    zeroed = [path for path in norms if path in chosen and norms[path].affine]
    steps = steps_of(graph, {norms[path].module for path in norms})
    channels = _channels(model, steps, norms, zeroed, owners)
    choice = choose(channels, norms, zeroed, share, below, allow_rough=approximate == "allow")
    if not zeroed:
        raise SurgeryError(_nothing(chosen, norms, unread))
    positions: dict[str, int] = defaultdict(int)
    for path, number in positions_of(graph):
        positions[path] += number
    return {
        "steps": [step.to_row() for step in steps],
        "zeroed": zeroed,
        "removed": choice.removed,
        "positions": dict(positions),
        "refusals": [
            *(asdict(Refusal(path, reason)) for path, reason in unread.items() if path in chosen),
            *map(asdict, choice.refused),
            *map(asdict, uncalled(graph, locations) if choice.removed else ()),
        ],
        "kept": [
            *(asdict(Remark(path, "it has no γ")) for path in norms if path in chosen and path not in zeroed),
            *map(asdict, choice.kept),
        ],
    }


@operation("prune", find=find_channels)
def build(
    model: nn.Module,
    steps: Sequence[Sequence[Any]],
    zeroed: Sequence[str],
    removed: Mapping[str, Sequence[int]],
    positions: Mapping[str, int],
    refusals: Sequence[Mapping[str, str]] = (),
    kept: Sequence[Mapping[str, str]] = (),
) -> Plan:
    """Plan to remove channels of norms, with all that goes with them.

    Raises:
        SurgeryError: a layer is not there, or has other channels.
    """
    read = [Step.from_row(row) for row in steps]
    norms = {step.name: _read(find(model, step.name), step.name) for step in read if step.kind == "norm"}
    channels = _channels(model, read, norms, zeroed, Owners(Locations(model)))
    gone = {
        channels.root(channels.norms[path][index]) for path, indices in removed.items() for index in indices
    }
    rough = {path for root, paths in channels.rough.items() if root in gone for path in paths}
    savings = savings_of(model, channels, gone, positions)
    return Plan(
        f"prune {count(len(gone), 'channel')}: {savings}",
        model,
        changes=tuple(changes_of(model, channels, gone)),
        refusals=tuple(Refusal(**row) for row in refusals),
        kept=tuple(Remark(**row) for row in kept),
        edits=tuple(cut_edits(model, channels, gone, norms)),
        expects=Expectation("same" if _is_same(norms, removed) and not rough else "may differ", "may differ"),
        warnings=tuple(
            Remark(path, "approximate: act(β) of removed channels meets zero padding on its way into it")
            for path in sorted(rough)
        ),
    )


def _check_amount(share: float | None, below: float | None) -> None:
    if (share is None) == (below is None):
        raise InputError(
            "prune: expected share or below, got both or neither; share=0.3 removes three channels of ten, below=0.01 "
            "those whose |γ| is smaller"
        )
    if share is not None and not (is_number(share) and 0 < share < 1):
        raise InputError(f"share: expected a number above 0 and below 1, got {share!r}")
    if below is not None and not (is_number(below) and 0 < below < math.inf):
        raise InputError(f"below: expected a number above 0, got {below!r}")


def _norms_of(model: nn.Module, graph: Graph) -> tuple[dict[str, BatchNorm], dict[str, str]]:
    """The batch norms that a forward calls as single events, by path, and why others cannot be read."""
    norms: dict[str, BatchNorm] = {}
    unread: dict[str, str] = {}
    for event in graph.events:
        if event.module is None or not is_batch_norm(event.module) or event.path in norms:
            continue
        norm = read_batch_norm(event.module)
        if isinstance(norm, Refusal):
            unread[event.path] = norm.reason
        elif norm.lazy or norm.is_uninitialised or norm.origin == "other":
            unread[event.path] = "it is no batch norm of torch or normsmith with values; convert it first"
        else:
            norms[event.path] = norm
    return norms, unread


def _read(module: nn.Module, path: str) -> BatchNorm:
    norm = read_batch_norm(module) if is_batch_norm(module) else None
    if not isinstance(norm, BatchNorm):
        raise SurgeryError(f"prune: expected a batch norm at {path}, got {type(module).__name__}")
    return norm


def _channels(
    model: nn.Module,
    steps: Iterable[Step],
    norms: Mapping[str, BatchNorm],
    zeroed: Iterable[str],
    owners: Owners,
) -> Channels:
    """The channels, of which those stay whose layers cannot be given other weights."""
    modules = {
        step.name: find(model, step.name) for step in steps if step.kind in ("layer", "norm", "activation")
    }
    channels = Channels(modules, norms, steps, zeroed)
    for path, numbers in [
        *channels.rows.items(),
        *((path, own[0]) for path, own in channels.columns.items()),
    ]:
        for why in own_obstacles(modules[path], path, owners.holders):
            channels.keep(numbers, why)
    for path, numbers in channels.norms.items():
        if any(owners.holders[id(p)] > 1 for p in parameters_of(modules[path]).values() if p is not None):
            channels.keep(numbers, f"another module holds the weight or bias of {path} too (tied)")
    return channels


def _nothing(chosen: Iterable[str], norms: Mapping[str, BatchNorm], unread: Mapping[str, str]) -> str:
    """Why there is no norm to prune by, for each that was chosen."""
    reasons = {
        path: unread.get(path, "it has no γ" if path in norms else "this forward does not come by it")
        for path in chosen
    }
    listed = "; ".join(f"{path_text(path)}: {reason}" for path, reason in reasons.items())
    return f"prune: expected batch norms with γ that the forward calls, got {listed}"


def _is_same(norms: Mapping[str, BatchNorm], removed: Mapping[str, Sequence[int]]) -> bool:
    """Whether all γ that go are 0 already."""
    return all(
        not bool(weight.detach()[list(indices)].any())
        for path, indices in removed.items()
        if (weight := norms[path].tensors["weight"]) is not None and not weight.is_meta
    )
