"""The layer that a batch norm becomes, made of its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from normsmith import layers
from normsmith._torch import buffers_of, parameters_of
from normsmith.anatomy.batch_norms import BatchNorm
from normsmith.anatomy.describe import describe_layer
from normsmith.anatomy.remark import Refusal
from normsmith.errors import InputError, NormsmithError
from normsmith.layers.policy import Policy
from normsmith.surgery.plans.verify import Outcome
from normsmith.surgery.targets.converted import Converted
from normsmith.surgery.targets.domains import DomainOptions, per_domain
from normsmith.surgery.targets.factory import group_count, made_of

_Guess = tuple[int, str] | None


def converted(norm: BatchNorm, to: str, options: dict[str, Any], guess: _Guess) -> Converted | Refusal:
    """`norm` as `to`, or the reason why not. Raises InputError for options that such a layer does not take."""
    try:
        return TARGETS[to](norm, to, options, guess)
    except (TypeError, InputError) as error:
        with_ = (
            f" with {', '.join(f'{name}={value!r}' for name, value in options.items())}" if options else ""
        )
        raise InputError(f"convert to {to}{with_}: {error}") from error
    except NormsmithError as error:
        return Refusal("", str(error))


def _ours(norm: BatchNorm, to: str, options: dict[str, Any], guess: _Guess) -> Converted | Refusal:
    notes = ["asked for"]
    dimensions = norm.dimensions or (guess and guess[0])
    if dimensions is None:
        return Refusal(
            "",
            f"{type(norm.module).__name__} does not say how many dimensions it takes, and no layer before it does",
        )
    if norm.dimensions is None and guess and guess[1]:
        notes.append(f"{dimensions}d as the {guess[1]} before it")
    if to in ("renorm", "frozen") and (not norm.tracks or norm.tensors["running_mean"] is None):
        return Refusal("", f"it has no running statistics (track_running_stats=False), which {to} needs")
    if to == "ghost" and "ghost_batch_size" not in options:
        raise InputError("expected ghost_batch_size, the samples that are normalised together")
    renorm = to == "renorm" or (to != "batch" and norm.renorm is not None)
    settings = dict(norm.settings)
    if renorm:
        settings |= _schedule(norm, options)
    if to == "sync":
        settings["process_group"] = settings.get("process_group") or "world"
    if norm.activation is not None:
        settings["activation"] = norm.activation
    settings |= options
    act = "Act" if norm.activation is not None else ""
    name = f"{'Lazy' * norm.lazy}Batch{'Renorm' if renorm else 'Norm'}{act}{dimensions}d"
    new = _made(norm, getattr(layers, name), settings)
    if to == "frozen":
        new.pinned = Policy("running", False)
    return _described(norm, new, to, notes, frozen=to == "frozen")


def _in_domains(norm: BatchNorm, to: str, options: dict[str, Any], guess: _Guess) -> Converted | Refusal:
    asked = DomainOptions.of(options)
    single = _ours(norm, to, asked.others, guess)
    return single if isinstance(single, Refusal) else per_domain(norm, single, asked)


def _schedule(norm: BatchNorm, options: dict[str, Any]) -> dict[str, Any]:
    """The renorm settings there are, less those that an option contradicts."""
    known = dict(norm.renorm or {})
    if known.get("total_steps") is not None:
        known.pop("schedule")
    if {"schedule", "total_steps"} & options.keys():
        known.pop("schedule", None)
        known.pop("total_steps", None)
    return known


def _torchs(norm: BatchNorm, to: str, options: dict[str, Any], guess: _Guess) -> Converted | Refusal:
    if norm.origin == "torch" and not options:
        return Converted(norm.module, describe_layer(norm.module), "", "", "same", "same", changes=False)
    for name, used in {
        "activation": norm.activation is not None,
        "ghost_batch_size": norm.settings.get("ghost_batch_size") is not None,
        'on_small_batch="running"': norm.settings.get("on_small_batch", "error") != "error",
        "freeze": norm.frozen and norm.origin == "ours",
    }.items():
        if used:
            return Refusal("", f"torch's batch norm has no {name}")
    dimensions = norm.dimensions or (guess and guess[0])
    if dimensions is None:
        return Refusal(
            "",
            f"{type(norm.module).__name__} does not say how many dimensions it takes, and no layer before it does",
        )
    group = norm.settings.get("process_group")
    if group is not None and norm.lazy:
        return Refusal("", "torch has no lazy SyncBatchNorm")
    if group is not None:
        new = _made(norm, nn.SyncBatchNorm, {"process_group": None if group == "world" else group, **options})
    else:
        new = _made(norm, getattr(nn, f"{'Lazy' * norm.lazy}BatchNorm{dimensions}d"), options)
    return _described(norm, new, to, ["asked for"], frozen=False)


def _grouped(norm: BatchNorm, to: str, options: dict[str, Any], _: _Guess) -> Converted | Refusal:
    if norm.is_uninitialised:
        return Refusal("", "it does not know its number of channels yet (lazy); run the model once")
    if norm.activation is not None:
        return Refusal("", f"it is fused with its activation, {norm.activation}, and {to} norm has none")
    arguments = {"num_groups": group_count(norm.features) if to == "group" else 1, "eps": norm.eps, **options}
    try:
        new = made_of(
            nn.GroupNorm, num_channels=norm.features, affine=norm.affine, device="meta", **arguments
        )
    except InputError:
        raise
    except ValueError as error:
        return Refusal("", str(error))
    for name in ("weight", "bias"):
        parameters_of(new)[name] = _parameter(norm, name)
    _carry_attributes(norm, new)
    why = "asked for; γ and β stay, the running statistics go: it has none"
    return Converted(new, describe_layer(norm.module), describe_layer(new), why, "differs", "differs")


TARGETS: dict[str, Callable[[BatchNorm, str, dict[str, Any], _Guess], Converted | Refusal]] = {
    "batch": _ours,
    "renorm": _ours,
    "sync": _ours,
    "ghost": _ours,
    "frozen": _ours,
    "domain": _in_domains,
    "torch": _torchs,
    "group": _grouped,
    "layer": _grouped,
}

WITHOUT_STATISTICS = frozenset(("group", "layer"))
"""The targets that keep no running statistics."""


def _made(norm: BatchNorm, kind: Any, settings: dict[str, Any]) -> Any:
    """A layer of this class around the tensors there are: none is allocated but those that it stores otherwise."""
    arguments = {
        "eps": norm.eps,
        "momentum": norm.momentum,
        "affine": norm.affine,
        "track_running_stats": norm.tracks,
        **settings,
    }
    if norm.affine and norm.tensors["bias"] is None:
        arguments["bias"] = False
    features = () if norm.lazy else (norm.features,)
    new: Any = made_of(kind, *features, device="meta", **arguments)
    for name in ("weight", "bias"):
        parameters_of(new)[name] = _parameter(norm, name)
    for name in list(buffers_of(new)):
        buffers_of(new)[name] = _buffer(norm, name, new)
    if norm.lazy:
        new.num_features = norm.features
    _carry_attributes(norm, new)
    return new


def _parameter(norm: BatchNorm, name: str) -> nn.Parameter | None:
    tensor = norm.tensors[name]
    if tensor is None or isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor.detach().clone())  # a frozen look-alike keeps its γ and β in buffers


def _buffer(norm: BatchNorm, name: str, new: nn.Module) -> Tensor | None:
    held = norm.tensors.get(name)
    mean = norm.tensors["running_mean"]
    if buffers_of(new)[name] is None or mean is None:
        return None
    if norm.is_uninitialised:
        return buffers_of(new)[name] if held is None else held
    if name == "num_batches_tracked":
        return torch.zeros((), dtype=torch.long, device=mean.device) if held is None else held
    return _stored(norm, _statistic(norm, name, new), new)


def _statistic(norm: BatchNorm, name: str, new: nn.Module) -> Tensor:
    """A running statistic; of the variance and the standard deviation one gives the other."""
    held, var, std = (norm.tensors.get(key) for key in (name, "running_var", "running_std"))
    if name == "running_std" and std is None and var is not None:
        return (var.detach().float() + norm.eps).sqrt()
    if name == "running_var" and std is not None and "running_std" not in buffers_of(new):
        return (std.detach() ** 2 - norm.eps).clamp(min=0)  # with which it evaluates the same
    assert held is not None
    return held


def _stored(norm: BatchNorm, statistic: Tensor, new: nn.Module) -> Tensor:
    """In the dtype that a layer keeps it in: ours float32 at least, torch's that of γ."""
    if not type(new).__module__.startswith("torch."):
        return statistic.float() if statistic.element_size() < 4 else statistic
    weight = norm.tensors["weight"]
    return statistic if weight is None or statistic.dtype == weight.dtype else statistic.to(weight.dtype)


def _carry_attributes(norm: BatchNorm, new: nn.Module) -> None:
    for name, value in norm.attributes().items():
        vars(new).setdefault(name, value)
    new.training = norm.module.training


def _described(norm: BatchNorm, new: Any, to: str, notes: list[str], *, frozen: bool) -> Converted:
    old = norm.module
    before, after = describe_layer(old), describe_layer(new)
    if (
        type(old) is type(new)
        and norm.frozen == frozen
        and before == after
        and _settled(old) == _settled(new)
    ):
        return Converted(new, before, after, "", "same", "same", changes=False)
    renorm = new.__class__.__name__.startswith("BatchRenorm")
    if renorm and norm.renorm is None and new.schedule is None:
        notes.append("call set_total_steps before training")
    if norm.frozen and not frozen:
        notes.append("it was frozen and normalises by the batch from now on")
    if norm.settings.get("process_group") is not None and to in ("batch", "renorm"):
        notes.append("it stays synchronised; process_group=None ends that")
    if (
        norm.tensors.get("num_batches_tracked") is None
        and buffers_of(new).get("num_batches_tracked") is not None
    ):
        notes.append("num_batches_tracked is new in the state dict")
    notes += norm.notes
    stops = tuple(new.parameters(recurse=False)) if frozen else ()
    same_eps = norm.eps == (new.epsilon if hasattr(new, "epsilon") else new.eps)
    training: Outcome = (
        "same"
        if same_eps and norm.frozen == frozen and not norm.notes and _trains_like(norm, new)
        else "may differ"
    )
    evaluation: Outcome = training if not norm.tracks else "same" if same_eps else "may differ"
    return Converted(new, before, after, "; ".join(notes), evaluation, training, stops=stops)


def _trains_like(norm: BatchNorm, new: Any) -> bool:
    """Whether batches are normalised as before; across ranks that depends on where it is tried."""
    if norm.settings.get("process_group") is not None or getattr(new, "process_group", None) is not None:
        return False
    names = ("ghost_batch_size", "schedule", "total_steps", "track")
    before = {**norm.settings, **(norm.renorm or {})}
    return all(before.get(name) == getattr(new, name, None) for name in names)


def _settled(layer: Any) -> tuple[Any, ...]:
    names = ("epsilon", "momentum", "ghost_batch_size", "process_group", "on_small_batch", "on_nonfinite")
    return tuple(getattr(layer, name, None) for name in (*names, "total_steps", "schedule", "track"))
