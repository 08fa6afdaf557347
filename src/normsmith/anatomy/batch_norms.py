"""What a batch norm consists of, whoever wrote its class, and which modules are batch norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normsmith._text import count, path_text, some
from normsmith._torch import NormBase, TorchBatchNorm, TorchInstanceNorm, buffers_of, parameters_of
from normsmith.anatomy.behaviour import behaviour_of
from normsmith.anatomy.kinds import holds_statistics
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.select import Only, selected
from normsmith.errors import SurgeryError
from normsmith.layers.ours import is_ours
from normsmith.layers.statistics import StatisticsBase

TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "running_std")


@dataclass(frozen=True)
class BatchNorm:
    """The parts of a module that is a batch norm, whoever wrote its class.

    - `origin`: whose class it is: torch's, ours, or that of another library.
    - `features`: the number of channels; 0 while a lazy layer waits for its first input.
    - `dimensions`: how many follow (batch, channels): 1 (or none), 2, 3; None where the class does not say.
    - `tensors`: its parameters and buffers by name, None for those that it does not have.
    - `lazy`: whether its class is a lazy one.
    - `frozen`: whether it normalises by its running statistics in training too.
    - `tracks`: whether it keeps running statistics.
    - `activation`: the name of the activation that it applies after it has normalised, if any.
    - `settings`, `renorm`: what else is set on layers of normsmith.
    - `layouts`: of a scale and shift of somebody's class, the inputs that it takes: (number of dimensions, dimension of
      the channels); None of batch norms, whose channels are in dimension 1. Its `features` are 1 where one number
      is for all channels.
    - `notes`: what it does otherwise in training than normsmith's layer of the same settings.
    """

    module: nn.Module
    origin: Literal["torch", "ours", "other"]
    features: int
    dimensions: int | None
    eps: float
    momentum: float | None
    tensors: dict[str, Tensor | None]
    lazy: bool = False
    frozen: bool = False
    tracks: bool = True
    activation: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    renorm: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    layouts: frozenset[tuple[int, int]] | None = None

    @property
    def affine(self) -> bool:
        """Whether it has a weight γ, and perhaps a bias β."""
        return self.tensors.get("weight") is not None

    @property
    def is_uninitialised(self) -> bool:
        """Whether its tensors wait for their first input, which tells the number of channels."""
        return any(tensor is not None and is_lazy(tensor) for tensor in self.tensors.values())

    def attributes(self) -> dict[str, Any]:
        """Plain attributes that users or other libraries have put on the module."""
        usual = None if self.origin == "other" else _usual_attributes(_base(type(self.module)), self.lazy)
        if usual is None:
            return {}
        return {name: value for name, value in vars(self.module).items() if name not in usual}


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm, by its class, its buffers, or what it does; not instance norms, not whitening.

    Of somebody's class it is tried whether it standardises in training, and scales and shifts channels in evaluation.
    """
    if isinstance(module, StatisticsBase):
        return module.is_batch_norm or not type(module).is_ours
    if isinstance(module, (TorchInstanceNorm, torch.jit.ScriptModule)):
        return False
    if isinstance(module, NormBase) or holds_statistics(module):
        return True
    behaviour = behaviour_of(module)
    return behaviour is not None and behaviour.kind == "running"


_WITHOUT = {"fold": "there is nothing to fold"}


def selected_batch_norms(
    locations: Locations,
    verb: str,
    only: Only = None,
    first: int | None = None,
    last: int | None = None,
    also: Callable[[nn.Module], bool] = lambda _: False,
) -> list[nn.Module]:
    """The batch norms of a model that a verb of surgery is asked for, in the order of the model's modules.

    `also` says which other modules the verb takes for one.

    Raises:
        InputError: `first` and `last` together, or less than 1.
        SurgeryError: there is none.

    >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.ReLU(), nn.BatchNorm1d(3))
    >>> selected_batch_norms(Locations(model), "fold", only="2")
    [BatchNorm1d(3, eps=1e-05, ...)]
    """
    norms = {
        module: paths for module, paths in locations.paths.items() if is_batch_norm(module) or also(module)
    }
    chosen = selected(norms, only, first, last)
    if not chosen:
        there = some([path_text(paths[0]) for paths in norms.values()], 5)
        where = (
            f"none of its {count(len(norms), 'batch norm')} is selected: {there}"
            if norms
            else f"it has no batch norm; {_WITHOUT.get(verb, 'insert puts norms before or after its activations')}"
        )
        model = next(iter(locations.paths))
        raise SurgeryError(f"{verb}: expected batch norms in {type(model).__name__}, but {where}")
    return chosen


def tensors_of(module: nn.Module) -> dict[str, Tensor | None]:
    """The tensors of a batch norm by name; None for those that it does not have."""
    held = {**buffers_of(module), **parameters_of(module)}
    return {name: held.get(name) for name in TENSORS}


def _base(kind: type[nn.Module]) -> Any:
    """The class of torch or normsmith whose forward a subclass has."""
    return next(base for base in kind.__mro__ if base.__module__.startswith("torch.nn.") or is_ours(base))


@cache
def _usual_attributes(kind: Any, lazy: bool) -> frozenset[str] | None:
    """The attributes that every new layer of a class has; None for abstract classes."""
    if kind is TorchBatchNorm or kind is NormBase:
        return None
    return frozenset(vars(kind(device="meta") if lazy else kind(1, device="meta")))
