"""The norms of any kind in a model, and the layer with weights that each belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import is_lazy

from normsmith._torch import parameters_of
from normsmith.anatomy.kinds import is_norm
from normsmith.anatomy.locations import Locations


@dataclass(frozen=True, eq=False)
class AffineNorm:
    """A norm with γ or β, and the layer whose results it most likely normalises.

    - `trainable`: those of its parameters that want a gradient.
    - `neighbour`: the parameters of the last layer with weights before it, in the order of the model's modules; of the
      first after it where none is before. Empty where the model has no other weights.
    """

    module: nn.Module
    path: str
    also: tuple[str, ...]
    trainable: tuple[nn.Parameter, ...]
    neighbour: tuple[nn.Parameter, ...]

    @property
    def neighbour_trains(self) -> bool:
        """Whether the layer beside it wants gradients."""
        return any(parameter.requires_grad for parameter in self.neighbour)


def affine_norms(model: nn.Module) -> tuple[AffineNorm, ...]:
    """The norms of a model that have γ or β, batch norms and others, in the order of its modules.

    >>> (norm,) = affine_norms(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 4)))
    >>> norm.path, [tuple(parameter.shape) for parameter in norm.neighbour]
    ('1', [(3, 2), (3,)])
    """
    return tuple(_affine_norms(model))


def _affine_norms(model: nn.Module) -> Iterator[AffineNorm]:
    paths = Locations(model).paths
    modules = [module for module in paths if _own(module)]
    weights = [module for module in modules if not is_norm(module)]
    for number, module in enumerate(modules):
        if not is_norm(module):
            continue
        before = [other for other in modules[:number] if not is_norm(other)]
        beside = before[-1:] or weights[:1]
        path, *also = paths[module]
        own = tuple(parameter for parameter in _own(module) if parameter.requires_grad)
        yield AffineNorm(module, path, tuple(also), own, _own(beside[0]) if beside else ())


def _own(module: nn.Module) -> tuple[nn.Parameter, ...]:
    """The parameters that a module itself holds."""
    held = parameters_of(module).values()
    return tuple(parameter for parameter in held if parameter is not None and not is_lazy(parameter))
