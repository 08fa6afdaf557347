"""Convert batch norms of anybody's into others: ours, renorm, sync, ghost, frozen, group, layer, torch's."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from normsmith._choices import did_you_mean
from normsmith._torch import buffers_of
from normsmith.anatomy.batch_norms import BatchNorm, selected_batch_norms
from normsmith.anatomy.broken_statistics import broken_statistics, statistics_remarks
from normsmith.anatomy.describe import describe_layer
from normsmith.anatomy.kinds import channels, is_producer
from normsmith.anatomy.locations import Locations, one_domain
from normsmith.anatomy.read_batch_norm import read_batch_norm
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.select import Only, selected
from normsmith.errors import InputError
from normsmith.layers.domains import HasDomains, domain_layers
from normsmith.surgery.plans.edits import AttributeEdit, Edit, ModuleEdit, RequireUnchanged
from normsmith.surgery.plans.operation import operation
from normsmith.surgery.plans.plan import Change, Plan
from normsmith.surgery.plans.verify import Expectation, Outcome
from normsmith.surgery.targets.conversions import TARGETS, WITHOUT_STATISTICS, converted
from normsmith.surgery.targets.converted import Converted
from normsmith.surgery.targets.domains import inner_norms, norm_of_domain

_WHOLE = ("domain", "torch", "group", "layer")
"""The targets that a norm within a layer with domains does not become: that layer would not know them."""
_ORDER: tuple[Outcome, ...] = ("same", "may differ", "differs")


@operation("convert")
def convert(
    model: nn.Module,
    to: str = "batch",
    *,
    only: Only = None,
    first: int | None = None,
    last: int | None = None,
    domain: str | int | None = None,
    **options: Any,
) -> Plan:
    """Plan to make the batch norms of a model another kind of norm, and to change nothing else.

    | `to` | becomes | outputs in evaluation |
    |---|---|---|
    | "batch" | normsmith's `BatchNorm1d/2d/3d`; fused with its activation, `BatchNormAct1d/2d/3d` | the same |
    | "renorm" | `BatchRenorm…`, with `total_steps` or `schedule` | the same |
    | "sync" | the same norm with `process_group` (by default "world") | the same |
    | "ghost" | the same norm with `ghost_batch_size` | the same |
    | "frozen" | the same norm, pinned to its running statistics; γ and β do not train | the same |
    | "domain" | `DomainNorm`: the same norm for each of `domains` | the same |
    | "torch" | `torch.nn.BatchNorm1d/2d/3d`, or `SyncBatchNorm` of a synchronised one | the same |
    | "group" | `nn.GroupNorm` with `num_groups` (by default up to 8) | differ |
    | "layer" | `nn.GroupNorm(1, C)`: layer norm over channels, whatever the layout | differ |

    γ, β, running statistics, counter, eps and momentum are carried over, γ and β as the same parameters, so that
    optimizers keep them; other settings of our layers stay too unless `options`, which go to the new layers,
    say otherwise. What is read: torch's batch norms (lazy and synchronised ones too) and subclasses without a
    forward of their own, and normsmith's; by name, if on a probe they compute what the name says, timm's
    `BatchNormAct2d`, `FrozenBatchNorm2d` of detectron2, torchvision and Hugging Face, and the batch renorm of
    sb3-contrib and torchrl. A layer whose class does not say how many dimensions it takes gets those of the layer
    before it with as many channels. Names in the state dict stay; "group" and "layer" have no statistics there.

    "domain" copies the statistics for every domain, which `use_domain` then chooses. γ and β are one for all
    (`affine="shared"`) or each domain's own ("own"); "embedding" makes a `ConditionalNorm`, with statistics of all and
    γ and β of each class. With `domain=`, of such layers one domain becomes what `to` says: a network without the
    others. Without it their norms are converted one by one, as all others are.

    Args:
        to: see above.
        only: patterns of paths such as "layer1.*", or a function (path, module) → bool.
        first, last: only the first or last so many of these, in the order of the model's modules.
        domain: of layers with domains the one that is kept, by name or number; all other layers stay as they are.
        options: of the new layers, as `total_steps`, `schedule`, `track`, `ghost_batch_size`, `process_group`,
            `on_small_batch`, `num_groups`, `eps`, `momentum`; of "domain" `domains`, `affine` and `default`.

    Raises:
        InputError: an unknown `to` or domain, options that the layers do not take, or first and last together.
        SurgeryError: there is no batch norm among what is selected.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> print(convert(model, to="renorm", total_steps=1000))
    convert to renorm: 1 change, 0 refusals
      1  nn.BatchNorm2d(8) → BatchRenorm2d(8, total_steps=1000)  asked for
      outputs: the same in evaluation; in training: may differ
    """
    if to not in TARGETS:
        raise InputError(f"to: expected one of {', '.join(TARGETS)}, got {to!r}{did_you_mean(to, TARGETS)}")
    locations = Locations(model)
    dimensions = _Dimensions(model)
    results: dict[nn.Module, Converted | Refusal]
    if domain is None:
        chosen = selected_batch_norms(locations, "convert", only, first, last)
        results = {module: _one(module, locations, dimensions, to, options) for module in chosen}
    else:
        layers: dict[nn.Module, tuple[str, ...]]
        layers = {layer: locations.paths[layer] for layer in domain_layers(model, "convert")}
        results = {
            module: _one_of(module, domain, locations, dimensions, to, options)
            for module in selected(layers, only, first, last)
        }
    converted_ = {module: result for module, result in results.items() if isinstance(result, Converted)}
    changed = {module: result for module, result in converted_.items() if result.changes}
    kept = {module: result for module, result in converted_.items() if not result.changes}
    return Plan(
        f"convert to {to}{'' if domain is None else f', the domain {domain}'}",
        model,
        changes=tuple(_change(locations.paths[module], result) for module, result in changed.items()),
        refusals=tuple(result for result in results.values() if isinstance(result, Refusal)),
        kept=tuple(
            Remark(locations.paths[module][0], f"it is {result.before} already")
            for module, result in kept.items()
        ),
        edits=tuple(edit for module, result in changed.items() for edit in _edits(module, result, locations)),
        expects=replace(_expected(changed), domain=domain),
        warnings=() if to in WITHOUT_STATISTICS else statistics_remarks(locations, converted_),
    )


def _one(
    module: nn.Module, locations: Locations, dimensions: _Dimensions, to: str, options: dict[str, Any]
) -> Converted | Refusal:
    """What one norm becomes, or the reason why it cannot."""
    path = locations.paths[module][0]
    if (bound := locations.why_not_replaceable(module, "converting")) is not None:
        return Refusal(path, bound)
    if (layer := locations.with_domains(module)) is not None and to in _WHOLE:
        of_domain = f"{describe_layer(module)} of {type(layer).__name__}"
        if to == "domain":
            return Converted(module, of_domain, "", "", "same", "same", changes=False)
        return Refusal(path, f"it is {of_domain}; {one_domain(layer)}, before converting")
    norm = read_batch_norm(module)
    result = norm if isinstance(norm, Refusal) else converted(norm, to, options, dimensions.of(norm))
    if isinstance(result, Refusal):
        return result.at(path)
    broken = broken_statistics(module)
    if broken is not None and broken.unusable and _computed_anew(module, result):
        return Refusal(path, f"{broken.advice}; the new layer would compute its statistics from them")
    read = locations.code.why_bound(module, result.new) if result.changes else None
    by_hand = None if to in ("batch", "torch") else locations.code.by_hand(module)
    reason = read or by_hand
    return result if reason is None else Refusal(path, reason)


def _one_of(
    module: nn.Module,
    domain: str | int,
    locations: Locations,
    dimensions: _Dimensions,
    to: str,
    options: dict[str, Any],
) -> Converted | Refusal:
    """What a layer with domains becomes where one of them is kept, or the reason why it cannot."""
    assert isinstance(module, HasDomains)
    path = locations.paths[module][0]
    if (bound := locations.why_not_replaceable(module, "converting")) is not None:
        return Refusal(path, bound)
    norm = norm_of_domain(module, domain)
    result = norm if isinstance(norm, Refusal) else converted(norm, to, options, dimensions.of(norm))
    if isinstance(result, Refusal):
        return result.at(path)
    assert isinstance(norm, BatchNorm)  # the line above has returned otherwise
    before, after = describe_layer(module), describe_layer(result.new)
    why = result.why or "asked for; the other domains go"
    return replace(result, before=before, after=after, why=why, changes=True, inner=norm.module)


def _change(paths: tuple[str, ...], result: Converted) -> Change:
    return Change(paths[0], result.before, result.after, result.why, paths[1:])


def _edits(module: nn.Module, result: Converted, locations: Locations) -> Iterator[Edit]:
    inner = {} if result.inner is None else {module if inner_norms(module) else result.new: result.inner}
    yield ModuleEdit(locations.holders[module], module, result.new, inner)
    if inner:
        for part in (module, *inner_norms(module)):
            yield RequireUnchanged(part)
    elif _stored_otherwise(module, result):
        yield RequireUnchanged(module, buffers_of(module))
    for parameter in result.stops:
        if parameter.requires_grad:
            yield AttributeEdit(parameter, "requires_grad", False)


def _stored_otherwise(module: nn.Module, result: Converted) -> bool:
    """Whether the new layer stores some of the statistics in another form."""
    held = {id(buffer) for buffer in buffers_of(module).values()}
    return any(buffer is not None and id(buffer) not in held for buffer in buffers_of(result.new).values())


def _computed_anew(module: nn.Module, result: Converted) -> bool:
    """Whether the new layer has a standard deviation from the old one's variance, or the other way round."""
    old, new = buffers_of(module), buffers_of(result.new)
    has_std = [buffers.get("running_std") is not None for buffers in (old, new)]
    return new.get("running_var") is not None and has_std[0] != has_std[1]


def _expected(changed: Mapping[nn.Module, Converted]) -> Expectation:
    def worst(outcomes: Iterable[Outcome]) -> Outcome:
        return max(outcomes, key=_ORDER.index, default="same")

    rows = changed.values()
    return Expectation(worst(row.evaluation for row in rows), worst(row.training for row in rows))


class _Dimensions:
    """For norms whose class does not say: the dimensions of the layer before them with as many channels."""

    def __init__(self, model: nn.Module) -> None:
        self._in_order = list(model.modules())
        self._positions = {module: position for position, module in enumerate(self._in_order)}

    def of(self, norm: BatchNorm) -> tuple[int, str] | None:
        """The dimensions, and the layer they are from, if any; None where the class knows, or none fits."""
        if norm.dimensions is not None:
            return None
        for module in reversed(self._in_order[: self._positions[norm.module]]):
            if is_producer(module) and channels(module) == norm.features:
                name = type(module).__name__
                return (1 if isinstance(module, nn.Linear) else int(name[-2])), name
        return (
            (1, "") if norm.renorm is not None else None
        )  # renorm of agents, whose first inputs are vectors


def convert_model(
    model: nn.Module,
    to: str = "batch",
    *,
    only: Only = None,
    optimizer: Optimizer | Sequence[Optimizer] = (),
    ema: nn.Module | Sequence[nn.Module] = (),
    copy: bool = False,
    partial: bool = False,
    **options: Any,
) -> nn.Module:
    """Convert the batch norms of a model, in place, and return it: `surgery.convert(…).apply(…)`.

    Evaluation gives the same outputs, except for "group" and "layer". To see first what would happen, print
    `normsmith.surgery.convert(model, to=...)`, which says more about every argument.

    Args:
        to: "batch", "renorm", "sync", "ghost", "frozen", "domain", "torch", "group" or "layer".
        only: patterns of paths such as "layer1.*", or a function (path, module) → bool.
        optimizer, ema: what belongs to the model and is to follow it.
        copy: leave the model alone, and return a converted copy.
        partial: convert what can be converted in spite of what cannot.
        options: of the new layers, e.g. `total_steps` of renorm.

    Raises:
        InputError: an unknown `to` or option.
        SurgeryError: with the model untouched: it has no batch norm, or one that cannot be converted.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> convert_model(model, to="renorm", total_steps=1000)[1]
    BatchRenorm2d(8, ...)
    """
    plan = convert(model, to, only=only, **options)
    if plan.warnings:
        warnings.warn("; ".join(remark.text for remark in plan.warnings), stacklevel=2)
    return plan.apply(optimizer=optimizer, ema=ema, copy=copy, partial=partial)
