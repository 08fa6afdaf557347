"""Which layers of a model have population statistics that can be measured, and why the others have not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from normsmith.anatomy.kinds import has_own_forward
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.preserve import preserved
from normsmith.anatomy.remark import Remark
from normsmith.anatomy.select import Only, selected
from normsmith.errors import SurgeryError
from normsmith.layers._statistics import StatisticsBase
from normsmith.layers._step_norm import StepNorm
from normsmith.layers.whitening import WhitenBase


class Statistics(NamedTuple):
    """What a layer goes by in evaluation, of shape (channels,); `std` only where the layer keeps one."""

    mean: Tensor
    var: Tensor
    std: Tensor | None = None


@dataclass(frozen=True)
class Measured:
    """A layer whose statistics can be measured; `path` is the first of its paths, `also` the others."""

    path: str
    layer: nn.Module
    also: tuple[str, ...] = ()

    @property
    def epsilon(self) -> float:
        """What is added to the variance."""
        layer = self.layer
        return layer.epsilon if isinstance(layer, StatisticsBase) else float(layer.eps)  # type: ignore[arg-type]

    def held(self) -> Statistics:
        """The buffers themselves, not copies."""
        buffers = self.layer._buffers
        mean, var = buffers["running_mean"], buffers["running_var"]
        assert mean is not None  # `choose` takes layers with running statistics alone
        assert var is not None
        return Statistics(mean, var, buffers.get("running_std"))

    def lend(self, statistics: Statistics) -> None:
        """Go by other statistics; the tensors that were there are not written to."""
        self.layer._buffers |= {"running_mean": statistics.mean, "running_var": statistics.var}
        if statistics.std is not None:
            self.layer._buffers["running_std"] = statistics.std


@dataclass(frozen=True)
class Choice:
    """The layers to measure, those that stay as they are, and those that cannot be measured."""

    measured: tuple[Measured, ...]
    kept: tuple[Remark, ...]
    refused: tuple[Remark, ...]

    def checked(self, operation: str) -> tuple[Measured, ...]:
        """The layers, for operations that make no plan.

        Raises:
            SurgeryError: a layer cannot be measured.
        """
        if self.refused:
            listed = "; ".join(f"{remark.path or '(model)'}: {remark.reason}" for remark in self.refused)
            raise SurgeryError(f"{operation}: {listed}; leave them out with only=...")
        return self.measured


def choose(model: nn.Module, operation: str, only: Only = None, *, by_ear: bool = True) -> Choice:
    """Go through the norms of a model that keep running statistics; `by_ear`: those of their inputs are measured.

    Raises:
        SurgeryError: there is none to measure, nor any that is refused.
    """
    measured: list[Measured] = []
    kept: list[Remark] = []
    refused: list[Remark] = []
    norms = {module: paths for module, paths in Locations(model).paths.items() if _keeps_statistics(module)}
    for module in selected(norms, only, None, None):
        path, *also = norms[module]
        if (reason := left_alone(module, model)) is not None:
            kept.append(Remark(path, reason))
        elif (reason := impossible(module) or (unheard(module) if by_ear else None)) is not None:
            refused.append(Remark(path, reason))
        else:
            measured.append(Measured(path, module, tuple(also)))
    if not (measured or refused):
        listed = "".join(f"; {remark.path or '(model)'}: {remark.reason}" for remark in kept)
        raise SurgeryError(
            f"{operation}: expected batch norm layers with running statistics, found none to change in "
            f"{type(model).__name__}{listed}"
        )
    return Choice(tuple(measured), tuple(kept), tuple(refused))


def _keeps_statistics(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return False
    return isinstance(module, (_BatchNorm, StatisticsBase)) or {"running_mean", "running_var"} <= set(
        module._buffers
    )


def left_alone(module: nn.Module, model: nn.Module) -> str | None:
    """Why the user wants a layer to stay as it is, as far as the layer tells."""
    if isinstance(module, StatisticsBase) and module._pinned is not None:
        return "frozen by freeze()"
    if not isinstance(module, (_BatchNorm, StatisticsBase)):
        return f"{type(module).__name__} is no batch norm that updates its statistics"
    if module._buffers.get("running_mean") is None:
        return "keeps no running statistics (track_running_stats=False)"
    if module.momentum == 0:
        return "frozen by momentum=0"
    if model.training and not module.training:
        return "in evaluation mode within a model that trains: frozen by its user"
    return None


def impossible(module: nn.Module) -> str | None:
    """Why a layer's statistics cannot be measured or changed now."""
    if isinstance(module, WhitenBase):
        return "whitening keeps matrices, not variances"
    if isinstance(module, StepNorm):
        return "keeps statistics for every time step, not for a population"
    buffer = module._buffers["running_mean"]
    if buffer is not None and is_lazy(buffer):
        return "has no channels yet: run one batch through the model first"
    if buffer is not None and buffer.is_meta:
        return "is on the meta device, without numbers: load its weights first"
    if isinstance(module, StatisticsBase) and module._collected is not None:
        return "is inside an accumulate block: close it first"
    return None


def unheard(module: nn.Module) -> str | None:
    """Why what a layer normalises is not what it is called with."""
    if not has_own_forward(module) or _normalises_its_input(module):
        return None
    return (
        f"{type(module).__name__} has a forward of its own, which does not normalise (batch, channels, ...) as it "
        "comes: what it does normalise cannot be heard"
    )


def _normalises_its_input(layer: Any) -> bool:
    """Whether, on a probe, an input may as well be normalised beforehand as by the running statistics."""
    measured, features = Measured("", layer), int(layer.num_features)
    held = measured.held().mean
    weight = next((p for p in layer._parameters.values() if p is not None), held)
    mean = torch.linspace(1, 2, features).to(held)

    def by(mean: Tensor, deviation: float, x: Tensor) -> Tensor:
        var, std = torch.full_like(mean, deviation**2 - measured.epsilon), torch.full_like(mean, deviation)
        measured.lend(Statistics(mean, var, std if "running_std" in layer._buffers else None))
        found: Tensor = layer.forward(x)
        return found

    for beyond in ((), (features + 1,), (features + 1, 3), (features + 1, 3, 2)):
        shape = (2, features, *beyond)
        x = torch.linspace(-2, 2, math.prod(shape)).sin().reshape(shape).to(weight)
        normalised = (x - mean.view(-1, *(1,) * len(beyond)).to(x)) / 2
        with preserved(layer), torch.no_grad():
            layer.eval()
            if layer._parameters.get("weight") is not None:  # it may be zero, and let nothing through
                layer._parameters["weight"] = nn.Parameter(torch.ones_like(weight), requires_grad=False)
            try:
                found, expected = by(mean, 2.0, x), by(torch.zeros_like(mean), 1.0, normalised)
            except TypeError:  # it wants more than an input
                return True
            except Exception:  # noqa: BLE001  not of so many dimensions
                continue
        return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-2, atol=1e-2)
    return False
