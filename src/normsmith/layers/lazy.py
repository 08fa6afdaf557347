"""What makes a layer lazy: it takes its number of channels from its first input."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from normsmith._torch import LazyNormBase
from normsmith.errors import InputError
from normsmith.layers._where import where
from normsmith.layers.statistics import torchs_bias


class LazyBase(LazyNormBase):
    """What our lazy layers add to torch's: our settings, and running statistics of float32 at least once they exist."""

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        ghost_batch_size: int | None = None,
        process_group: dist.ProcessGroup | Literal["world"] | None = None,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
    ) -> None:
        super().__init__(eps, momentum, affine, track_running_stats, device, dtype, **torchs_bias(bias))
        self._configure(ghost_batch_size, process_group, on_small_batch, on_nonfinite)  # type: ignore[operator]

    def initialize_parameters(self, input: Tensor, *_: Any, **__: Any) -> None:
        """Take the number of channels from the first input."""
        if input.ndim < 2:
            raise InputError(
                f"{where(self)}: expected an input of shape (batch, channels, ...), got {tuple(input.shape)}; "
                "add the missing dimension, e.g. with .unsqueeze(0)"
            )
        super().initialize_parameters(input)
        if self.num_features == 0:
            # nothing was left to initialise: a checkpoint came first, or the layer holds no tensors
            held = next((tensor for tensor in (self.running_mean, self.weight) if tensor is not None), None)
            self.num_features = input.shape[1] if held is None else len(held)
        self._at_least_float32()  # type: ignore[operator]
