"""Batch renormalization layers of sb3-contrib and torchrl, read as `layers.interop` reads their state dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from normsmith._torch import buffers_of, parameters_of
from normsmith.anatomy.affine import affine_of
from normsmith.anatomy.batch_norms import TENSORS, BatchNorm
from normsmith.anatomy.behaviour import behaviour_of
from normsmith.anatomy.broken_statistics import broken_values
from normsmith.anatomy.remark import Refusal
from normsmith.errors import InputError
from normsmith.layers.interop import ImportedRenorm, from_sb3, from_torchrl
from normsmith.layers.ours import Ours


@dataclass(frozen=True)
class Library:
    """A library's renorm layer, as its modules hold it.

    - `tensors`: the names of its parameters and buffers, with torch's for the same.
    - `settings`: the names of its attributes, with those of the same arguments of `read`.
    - `read`: the function of `layers.interop` for its state dicts.
    """

    name: str
    tensors: Mapping[str, str]
    settings: Mapping[str, str]
    read: Callable[..., ImportedRenorm]

    def has(self, module: nn.Module) -> bool:
        """Whether a module holds these tensors and no others, and has these settings."""
        held = parameters_of(module).keys() | buffers_of(module).keys()
        return held == set(self.tensors) and all(hasattr(module, name) for name in self.settings)


_SB3 = Library(
    "sb3-contrib",
    {"ra_mean": "running_mean", "ra_var": "running_var", "steps": "num_batches_tracked", "scale": "weight"}
    | {"bias": "bias"},
    {"eps": "eps", "momentum": "momentum", "warmup_steps": "warmup_steps", "rmax": "r_max", "dmax": "d_max"}
    | {"affine": "affine"},
    from_sb3,
)
_TORCHRL = Library(
    "torchrl",
    {name: name for name in TENSORS if name != "running_std"},
    {name: name for name in ("eps", "momentum", "max_r", "max_d", "warmup_steps", "smooth")},
    from_torchrl,
)


def library_of(module: nn.Module) -> Library | None:
    """The library whose renorm layer a module is, by the names of its class, tensors and settings."""
    if isinstance(module, Ours) or "Renorm" not in type(module).__name__:
        return None
    return next((library for library in (_SB3, _TORCHRL) if library.has(module)), None)


def read_renorm(module: nn.Module, library: Library) -> BatchNorm | Refusal:
    """A renorm layer of a library, which a probe has to confirm in evaluation; training is as its notes say."""
    layer: Any = module
    settings = {argument: getattr(layer, name) for name, argument in library.settings.items()}
    kind = type(module).__name__
    if next(module.parameters()).is_meta:
        return Refusal("", f"{kind} has a forward of its own, which cannot be tried on the meta device")
    held: dict[str, Any] = {**buffers_of(module), **parameters_of(module)}
    tensors = {theirs: held[own] for own, theirs in library.tensors.items()}
    broken = broken_values(tensors, settings["eps"])
    if broken is not None and broken.unusable:
        return Refusal("", f"{broken.text}, so that what {kind} computes cannot be tried")
    try:
        imported = library.read(module.state_dict(), **settings)
    except InputError as error:
        return Refusal("", str(error))
    if "weight" not in imported.state:
        tensors |= {"weight": None, "bias": None}
    norm = BatchNorm(
        module,
        "other",
        len(tensors["running_mean"]),
        1 if library is _SB3 else None,
        settings["eps"],
        settings["momentum"],
        {name: tensors.get(name) for name in TENSORS},
        renorm={"schedule": imported.schedule, "total_steps": None, "track": imported.track},
        notes=imported.notes + _renamings(library),
    )
    if not _evaluates_as(norm):
        return Refusal("", f"{kind} does not compute batch norm in evaluation, tried with a few numbers")
    return norm


def _renamings(library: Library) -> tuple[str, ...]:
    """What is said of state dict keys that get torch's names."""
    renamed = {own: theirs for own, theirs in library.tensors.items() if own != theirs}
    if not renamed:
        return ()
    return (f"in the state dict {', '.join(renamed)} become {', '.join(renamed.values())}",)


def _evaluates_as(norm: BatchNorm) -> bool:
    """Whether a probe of the layer in evaluation shows the batch norm as which it was read."""
    behaviour, affine = behaviour_of(norm.module), affine_of(norm)
    if behaviour is None or behaviour.scale is None or behaviour.shift is None:
        return False
    return all(
        torch.allclose(shown, read.cpu())
        for shown, read in ((behaviour.scale, affine.scale), (behaviour.shift, affine.shift))
    )
