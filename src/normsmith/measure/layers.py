"""Which layers of a model keep running statistics that can be measured, and why the others cannot be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normsmith._torch import TorchBatchNorm, buffers_of, parameters_of
from normsmith.anatomy.behaviour import behaviour_of
from normsmith.anatomy.kinds import has_own_forward, holds_statistics
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.preserve import preserved
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.renorm_of_others import library_of
from normsmith.anatomy.select import Only, selected
from normsmith.errors import SurgeryError
from normsmith.layers.statistics import StatisticsBase
from normsmith.measure.statistics import Statistics


@dataclass(frozen=True)
class MeasuredLayer:
    """A layer whose running statistics can be measured; `path` is the first of its paths, `also` are the others."""

    path: str
    layer: nn.Module
    also: tuple[str, ...] = ()

    @property
    def epsilon(self) -> float:
        """The number that the layer adds to the variance."""
        layer = self.layer
        return layer.epsilon if isinstance(layer, StatisticsBase) else float(layer.eps)  # type: ignore[arg-type]

    def statistics(self) -> Statistics:
        """The layer's running statistics: its buffers themselves, not copies."""
        buffers = buffers_of(self.layer)
        mean, var = buffers["running_mean"], buffers["running_var"]
        assert mean is not None  # `measurable_layers` takes layers with running statistics alone
        assert var is not None
        return Statistics(mean, var, buffers.get("running_std"))

    def normalise_by(self, statistics: Statistics) -> None:
        """Put other tensors in the place of the running statistics; those that were there are not written to.

        >>> layer = MeasuredLayer("", nn.BatchNorm1d(1, eps=0.0).eval())
        >>> own = layer.statistics()
        >>> layer.normalise_by(Statistics(torch.tensor([1.0]), torch.tensor([4.0])))
        >>> layer.layer(torch.tensor([[5.0]])).item(), own.mean.item()
        (2.0, 0.0)
        """
        buffers_of(self.layer).update({"running_mean": statistics.mean, "running_var": statistics.var})
        if statistics.std is not None:
            buffers_of(self.layer)["running_std"] = statistics.std


@dataclass(frozen=True)
class MeasurableLayers:
    """The layers of a model that keep running statistics, by whether these can be measured.

    - `layers`: those that can be.
    - `kept`: those that should stay as they are, as layers that their user has frozen, and why.
    - `refused`: those that cannot be measured, and why.
    """

    model: nn.Module
    layers: tuple[MeasuredLayer, ...]
    kept: tuple[Remark, ...]
    refused: tuple[Refusal, ...]

    def some_for(self, operation: str) -> tuple[MeasuredLayer, ...]:
        """The layers, for an operation that leaves out what is refused.

        Raises:
            SurgeryError: there are none, nor any that is refused.
        """
        if not (self.layers or self.refused):
            listed = "".join(f"; {remark.text}" for remark in self.kept)
            raise SurgeryError(
                f"{operation}: expected batch norm layers with running statistics, found none to change in "
                f"{type(self.model).__name__}{listed or '; insert puts norms before or after its activations'}"
            )
        return self.layers

    def all_for(self, operation: str) -> tuple[MeasuredLayer, ...]:
        """The layers, for an operation that needs them all.

        Raises:
            SurgeryError: there are none, or one cannot be measured.
        """
        layers = self.some_for(operation)
        if self.refused:
            listed = "; ".join(refusal.text for refusal in self.refused)
            raise SurgeryError(f"{operation}: {listed}; leave them out with only=...")
        return layers


def measurable_layers(model: nn.Module, only: Only = None, *, inputs: bool = True) -> MeasurableLayers:
    """The layers of a model that keep running statistics: which can be measured, and why the others cannot.

    Args:
        model: any module; a layer that stands in several places is listed once.
        only: patterns of paths such as "layer1.*", or a function (path, module) → bool.
        inputs: whether the statistics are measured, on the inputs of the layers. Where they are only written, a
            layer may also have a forward that normalises something else than its input.

    >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, momentum=0.0), nn.BatchNorm1d(2, device="meta"))
    >>> measurable = measurable_layers(model)
    >>> [layer.path for layer in measurable.layers]
    ['0']
    >>> print(measurable.kept[0].reason)
    frozen by momentum=0
    >>> print(measurable.refused[0].reason)
    is on the meta device, without numbers: load its weights first
    """
    layers: list[MeasuredLayer] = []
    kept: list[Remark] = []
    refused: list[Refusal] = []
    norms = {module: paths for module, paths in Locations(model).paths.items() if _keeps_statistics(module)}
    for module in selected(norms, only, None, None):
        path, *also = norms[module]
        if _is_norm_of_others(module):
            refused.append(Refusal(path, _why_not_of_others(module)))
        elif (reason := why_kept(module, model)) is not None:
            kept.append(Remark(path, reason))
        elif (reason := why_not_now(module) or (_why_not_by_input(module) if inputs else None)) is not None:
            refused.append(Refusal(path, reason))
        else:
            layers.append(MeasuredLayer(path, module, tuple(also)))
    return MeasurableLayers(model, tuple(layers), tuple(kept), tuple(refused))


def _keeps_statistics(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return False
    if isinstance(module, (TorchBatchNorm, StatisticsBase)) or holds_statistics(module):
        return True
    return _is_norm_of_others(module)


def _is_norm_of_others(module: nn.Module) -> bool:
    """Whether a layer of neither torch nor normsmith keeps running statistics, and updates them in training."""
    behaviour = behaviour_of(module)
    return behaviour is not None and behaviour.kind == "running"


def _why_not_of_others(module: nn.Module) -> str:
    library, kind = library_of(module), type(module).__name__
    if library is None:
        return f"{kind} has a forward of its own, whose statistics cannot be measured"
    return f"{kind} is one of {library.name}: convert it first (surgery.convert)"


def why_kept(module: nn.Module, model: nn.Module) -> str | None:
    """The reason why a layer should stay as it is, as far as the layer tells; None where there is none."""
    if isinstance(module, StatisticsBase) and module.pinned is not None:
        return "frozen by freeze()"
    if not isinstance(module, (TorchBatchNorm, StatisticsBase)):
        return f"{type(module).__name__} is no batch norm that updates its statistics"
    if buffers_of(module).get("running_mean") is None:
        return "keeps no running statistics (track_running_stats=False)"
    if module.momentum == 0:
        return "frozen by momentum=0"
    if model.training and not module.training:
        return "in evaluation mode within a model that trains: frozen by its user"
    return None


def why_not_now(module: nn.Module) -> str | None:
    """The reason why a layer's statistics can neither be measured nor changed now; None where they can."""
    if isinstance(module, StatisticsBase) and module.unmeasurable is not None:
        return module.unmeasurable
    buffer = buffers_of(module)["running_mean"]
    if buffer is not None and is_lazy(buffer):
        return "has no channels yet: run one batch through the model first"
    if buffer is not None and buffer.is_meta:
        return "is on the meta device, without numbers: load its weights first"
    if isinstance(module, StatisticsBase) and module.is_accumulating:
        return "is inside an accumulate block: close it first"
    return None


def _why_not_by_input(module: nn.Module) -> str | None:
    """The reason why what a layer normalises is something else than its input; None where it is its input."""
    if not has_own_forward(module) or _normalises_its_input(module):
        return None
    return (
        f"{type(module).__name__} has a forward of its own, which does not normalise (batch, channels, ...) as it "
        "comes: what it does normalise cannot be measured"
    )


def _normalises_its_input(layer: Any) -> bool:
    """Whether a layer that is called with an input normalises this input, tried with a few numbers.

    It does if it makes no difference whether the running statistics normalise a probe or the probe comes normalised.
    """
    own: Tensor = layer.running_mean
    weight = next((p for p in parameters_of(layer).values() if p is not None), own)
    features = int(layer.num_features)
    mean = torch.linspace(1, 2, features).to(own)
    for beyond in ((), (features + 1,), (features + 1, 3), (features + 1, 3, 2)):
        shape = (2, features, *beyond)
        x = torch.linspace(-2, 2, math.prod(shape)).sin().reshape(shape).to(weight)
        normalised = (x - mean.view(-1, *(1,) * len(beyond)).to(x)) / 2
        with preserved(layer), torch.no_grad():
            layer.eval()
            if parameters_of(layer).get("weight") is not None:  # it may be zero, and let nothing through
                parameters_of(layer)["weight"] = nn.Parameter(torch.ones_like(weight), requires_grad=False)
            try:
                y = _output(layer, x, mean, 2.0)
                expected = _output(layer, normalised, torch.zeros_like(mean), 1.0)
            except TypeError:  # it wants more than an input
                return True
            except Exception:  # noqa: BLE001  not of so many dimensions
                continue
        return y.shape == expected.shape and torch.allclose(y, expected, rtol=1e-2, atol=1e-2)
    return False


def _output(layer: Any, x: Tensor, mean: Tensor, deviation: float) -> Tensor:
    """What a layer makes of x by these running statistics, the deviation (with epsilon) the same in all channels."""
    measured = MeasuredLayer("", layer)
    var, std = torch.full_like(mean, deviation**2 - measured.epsilon), torch.full_like(mean, deviation)
    measured.normalise_by(Statistics(mean, var, std if "running_std" in buffers_of(layer) else None))
    y: Tensor = layer.forward(x)
    return y
