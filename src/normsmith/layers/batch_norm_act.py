"""Batch norm with its activation and residual in one layer: y = act(norm(x) + residual)."""

from __future__ import annotations

from typing import Any

from normsmith.errors import InputError
from normsmith.layers.batch_renorm import RenormBase
from normsmith.layers.statistics import StatisticsBase
from normsmith.ops import ACTIVATIONS


class _WithActivation:
    """Adds an activation to a norm.

    Its layers are no subclasses of torch's batch norm: torch's converters would replace them by one, and lose the
    activation.
    """

    def __init__(self, *arguments: Any, activation: str | None = "relu", **options: Any) -> None:
        if activation is not None and activation not in ACTIVATIONS:
            raise InputError(
                f"activation: expected one of {', '.join(ACTIVATIONS)}, or None; got {activation!r}"
            )
        super().__init__(*arguments, **options)
        self.activation = activation

    def extra_repr(self) -> str:
        """The norm's settings, then the activation."""
        return f"{super().extra_repr()}, activation={self.activation!r}"  # type: ignore[misc]

    def _lost_by_converters(self) -> str:
        return "the activation"

    def _lost_by_fusers(self) -> str:
        return "the activation"


class BatchNormAct1d(_WithActivation, StatisticsBase):
    """Batch norm, residual and activation of (batch, channels) or (batch, channels, length) inputs.

        y = act(γ·(x − μ)/sqrt(σ² + eps) + β + residual)

    Statistics, training and evaluation are those of `BatchNorm1d`, and so is the state dict: a checkpoint of a
    batch norm loads. It is not a subclass of torch's batch norm, so that no converter mistakes it for one.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype, bias: as in torch.
        activation: "relu", "leaky_relu" (slope 0.01), "silu", "gelu", "hardswish", "sigmoid", "tanh", or None.
        ghost_batch_size, process_group, on_small_batch, on_nonfinite: as in `BatchNorm1d`.

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


class BatchNormAct2d(_WithActivation, StatisticsBase):
    """Batch norm, residual and activation of (batch, channels, height, width) inputs; see `BatchNormAct1d`.

    >>> import torch
    >>> BatchNormAct2d(3)(torch.randn(2, 3, 4, 4)).min().item()
    0.0
    """

    spatial = (2,)


class BatchNormAct3d(_WithActivation, StatisticsBase):
    """Batch norm, residual and activation of 5-D inputs; see `BatchNormAct1d`.

    >>> import torch
    >>> BatchNormAct3d(3)(torch.randn(2, 3, 4, 4, 4)).min().item()
    0.0
    """

    spatial = (3,)


class BatchRenormAct1d(_WithActivation, RenormBase):
    """`BatchNormAct1d` with batch renormalization; takes `schedule`, `total_steps` and `track` of `BatchRenorm1d`.

    >>> import torch
    >>> BatchRenormAct1d(3, total_steps=100)(torch.randn(4, 3)).min().item()
    0.0
    """

    spatial = (0, 1)


class BatchRenormAct2d(_WithActivation, RenormBase):
    """`BatchNormAct2d` with batch renormalization; takes `schedule`, `total_steps` and `track` of `BatchRenorm1d`.

    >>> import torch
    >>> BatchRenormAct2d(3, total_steps=100)(torch.randn(2, 3, 4, 4)).min().item()
    0.0
    """

    spatial = (2,)


class BatchRenormAct3d(_WithActivation, RenormBase):
    """`BatchNormAct3d` with batch renormalization; takes `schedule`, `total_steps` and `track` of `BatchRenorm1d`.

    >>> import torch
    >>> BatchRenormAct3d(3, total_steps=100)(torch.randn(2, 3, 4, 4, 4)).min().item()
    0.0
    """

    spatial = (3,)
