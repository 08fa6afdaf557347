"""Batch norm with its activation and residual in one layer: y = act(norm(x) + residual)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist

from normsmith.layers.batch_renorm import RenormBase
from normsmith.layers.converters import RefusesConverters
from normsmith.layers.schedules import Schedule
from normsmith.layers.statistics import StatisticsBase
from normsmith.ops.activation import activation_named


class _WithActivation(RefusesConverters):
    """What an activation adds to a norm.

    Its layers are no subclasses of torch's batch norm: torch's converters would replace them by one, and lose the
    activation.
    """

    activation: str | None

    def _set_activation(self, activation: str | None) -> None:
        activation_named(activation)  # raises an error for another name
        self.activation = activation

    def extra_repr(self) -> str:
        """The norm's settings, then the activation."""
        return f"{super().extra_repr()}, activation={self.activation!r}"

    def _lost_by_converters(self) -> str:
        return "the activation"

    def _lost_by_fusers(self) -> str:
        return "the activation"


class NormActBase(_WithActivation, StatisticsBase):
    """Batch norm with an activation; `BatchNormAct1d` documents it."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = "relu",
        ghost_batch_size: int | None = None,
        process_group: dist.ProcessGroup | Literal["world"] | None = None,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias,
            ghost_batch_size=ghost_batch_size, process_group=process_group,
            on_small_batch=on_small_batch, on_nonfinite=on_nonfinite,
        )  # fmt: skip
        self._set_activation(activation)


class RenormActBase(_WithActivation, RenormBase):
    """Batch renormalization with an activation; `BatchRenormAct1d` documents it."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = "relu",
        schedule: str | Schedule | None = None,
        total_steps: int | None = None,
        track: Literal["var", "std"] | None = None,
        ghost_batch_size: int | None = None,
        process_group: dist.ProcessGroup | Literal["world"] | None = None,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias,
            ghost_batch_size=ghost_batch_size, process_group=process_group,
            on_small_batch=on_small_batch, on_nonfinite=on_nonfinite,
            schedule=schedule, total_steps=total_steps, track=track,
        )  # fmt: skip
        self._set_activation(activation)


class BatchNormAct1d(NormActBase):
    """Batch norm, residual and activation of (batch, channels) or (batch, channels, length) inputs.

        y = act(γ·(x − μ)/sqrt(σ² + eps) + β + residual)

    Statistics, training and evaluation are those of `BatchNorm1d`, and so is the state dict: a checkpoint of a
    batch norm loads. It is not a subclass of torch's batch norm, so that no converter mistakes it for one.

    Args:
        num_features: number of channels C, the size of dimension 1 of the input.
        eps: finite number ≥ 0 that is added to the variance.
        momentum: weight of the new batch in the running statistics; None is the cumulative average.
        affine: whether there are γ (`weight`, initially 1) and β (`bias`, initially 0), of shape (C,).
        track_running_stats: whether running statistics are kept; without them evaluation uses the batch's.
        device: where parameters and buffers are made.
        dtype: of γ and β; running statistics are float32 at least.
        bias: with `affine`, whether there is β beside γ; False needs a torch whose batch norms know it.
        activation: "relu", "leaky_relu" (slope 0.01), "silu", "gelu", "hardswish", "sigmoid", "tanh", or None.
        ghost_batch_size: in training, normalise every chunk of so many samples by its own statistics; None is all.
        process_group: ranks that share statistics, "world" for all, None for none; see `BatchNorm1d`.
        on_small_batch: one value per channel in training: "error", or "running" to use the running statistics.
        on_nonfinite: "skip" keeps NaN and inf out of the running statistics; "propagate" does not.

    Raises:
        InputError: an argument or an input does not fit; says what was expected, and where.

    >>> import torch
    >>> layer = BatchNormAct1d(1, affine=False)
    >>> layer(torch.tensor([[0.0], [2.0]]), residual=torch.tensor([[3.0], [0.0]])).round(decimals=3)
    tensor([[2.],
            [1.]])

    Source: Ioffe and Szegedy (2015), arXiv:1502.03167; the residual as in He et al. (2015), arXiv:1512.03385.
    """

    spatial = (0, 1)


class BatchNormAct2d(NormActBase):
    """Batch norm, residual and activation of (batch, channels, height, width) inputs; see `BatchNormAct1d`.

    >>> import torch
    >>> BatchNormAct2d(3)(torch.randn(2, 3, 4, 4)).min().item()
    0.0
    """

    spatial = (2,)


class BatchNormAct3d(NormActBase):
    """Batch norm, residual and activation of 5-D inputs; see `BatchNormAct1d`.

    >>> import torch
    >>> BatchNormAct3d(3)(torch.randn(2, 3, 4, 4, 4)).min().item()
    0.0
    """

    spatial = (3,)


class BatchRenormAct1d(RenormActBase):
    """`BatchNormAct1d` with batch renormalization; takes `schedule`, `total_steps` and `track` of `BatchRenorm1d`.

    >>> import torch
    >>> BatchRenormAct1d(3, total_steps=100)(torch.randn(4, 3)).min().item()
    0.0
    """

    spatial = (0, 1)


class BatchRenormAct2d(RenormActBase):
    """`BatchNormAct2d` with batch renormalization; takes `schedule`, `total_steps` and `track` of `BatchRenorm1d`.

    >>> import torch
    >>> BatchRenormAct2d(3, total_steps=100)(torch.randn(2, 3, 4, 4)).min().item()
    0.0
    """

    spatial = (2,)


class BatchRenormAct3d(RenormActBase):
    """`BatchNormAct3d` with batch renormalization; takes `schedule`, `total_steps` and `track` of `BatchRenorm1d`.

    >>> import torch
    >>> BatchRenormAct3d(3, total_steps=100)(torch.randn(2, 3, 4, 4, 4)).min().item()
    0.0
    """

    spatial = (3,)
