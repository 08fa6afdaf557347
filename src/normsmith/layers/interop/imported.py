"""What an import yields: state and settings of a renorm layer, to build one or to load into one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normsmith._torch import buffers_of
from normsmith.errors import InputError
from normsmith.layers._where import where
from normsmith.layers.batch_renorm import BatchRenorm1d, RenormBase
from normsmith.layers.schedules import Linear


@dataclass(frozen=True)
class ImportedRenorm:
    """A renorm layer of another library, translated: state, settings, and notes on what differs."""

    source: str
    state: dict[str, Tensor]
    """Of a `BatchRenorm*` layer; with `running_std` where the source averages standard deviations."""
    eps: float
    momentum: float
    """Weight of the new batch, torch's convention."""
    schedule: Linear
    notes: tuple[str, ...]
    """Where training goes on differently than at the source; evaluation is the same."""

    @property
    def track(self) -> Literal["var", "std"]:
        """What the source averages."""
        return "std" if "running_std" in self.state else "var"

    def build(self, kind: type[RenormBase] = BatchRenorm1d, **options: Any) -> Any:
        """A new layer of this state and these settings, e.g. `build(BatchRenorm2d)`.

        `options` are further arguments of the layer. Raises InputError where they contradict the state.
        """
        layer = kind(
            len(self.state["running_mean"]),
            affine="weight" in self.state,
            track=options.pop("track", self.track),
            schedule=self.schedule,
            **options,
        )
        return self.load_into(layer)

    def load_into(self, layer: nn.Module) -> RenormBase:
        """Give state and settings to an existing layer and return it; after an error it is as it was.

        Raises:
            InputError: not one of our renorm layers, another number of channels, or γ and β on one side only.
        """
        if not isinstance(layer, RenormBase):
            raise InputError(
                f"import from {self.source}: expected a BatchRenorm layer of normsmith, got {type(layer).__name__}"
            )
        state = dict(self.state)
        if "running_std" not in buffers_of(layer):
            state.pop("running_std", None)
        elif self.track == "var":
            state["running_std"] = (state["running_var"] + self.eps).sqrt()
        own = layer.state_dict()
        if any(is_lazy(value) for value in own.values()):
            raise InputError(
                f"import from {self.source} into {where(layer)}: expected a layer of known channels, got a lazy one; "
                "run it once, or use build()"
            )
        if state.keys() != own.keys():
            raise InputError(
                f"import from {self.source} into {where(layer)}: expected {_names(own)}, got {_names(state)}; "
                "choose affine, bias and track_running_stats of the layer as in the source, or use build()"
            )
        channels = len(state["running_mean"])
        if channels != layer.num_features:
            raise InputError(
                f"import from {self.source} into {where(layer)}: expected {layer.num_features} channels, got {channels}"
            )
        layer.load_state_dict(state)
        layer.eps, layer.momentum = self.eps, self.momentum
        layer.total_steps, layer.schedule = None, self.schedule
        return layer


def _names(state: Mapping[str, Any]) -> str:
    return ", ".join(sorted(state))
