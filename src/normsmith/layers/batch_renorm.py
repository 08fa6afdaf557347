"""Batch renormalization layers: batch norm whose training output is corrected towards its running statistics."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

from normsmith._torch import buffers_of
from normsmith.errors import InputError
from normsmith.layers.lazy import LazyBase
from normsmith.layers.schedules import Schedule, bounds_at, scaled, schedule_named
from normsmith.layers.statistics import StatisticsBase
from normsmith.ops import Renorm, correction, moments, snapshot


class RenormBase(StatisticsBase):
    """A batch norm layer with bounds for r and d; `BatchRenorm1d` documents it."""

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
        )  # fmt: skip
        self._configure_renorm(schedule, total_steps, track)
        if self.track == "std" and self.running_var is not None:
            self.register_buffer("running_std", torch.ones_like(self.running_var))

    def _configure_renorm(
        self, schedule: str | Schedule | None, total_steps: int | None, track: Literal["var", "std"] | None
    ) -> None:
        """Check and keep the settings of batch renormalization."""
        if track not in ("var", "std", None):
            raise InputError(f"track: expected 'var' or 'std', got {track!r}")
        if schedule is not None and total_steps is not None:
            raise InputError("schedule, total_steps: expected one of the two; total_steps scales the default")
        # Keras averages the standard deviation: with the variance the layer would not compute what its preset promises
        self.track = track or ("std" if schedule == "keras" else "var")
        self.total_steps = total_steps
        self.schedule = schedule

    @property
    def schedule(self) -> Schedule | None:
        """The bounds by step; None until it or `total_steps` is set. To set it does not change what is averaged."""
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: str | Schedule | None) -> None:
        if schedule is not None:
            self._schedule: Schedule | None = schedule_named(schedule)
        else:
            self._schedule = None if self.total_steps is None else scaled(self.total_steps)

    def set_total_steps(self, total_steps: int) -> None:
        """Scale the default schedule to a training run of so many steps.

        Raises:
            InputError: total_steps is not a positive whole number.
        """
        self._schedule, self.total_steps = scaled(total_steps), total_steps

    def bounds(self) -> Renorm:
        """The bounds r_max and d_max that the next training forward will use.

        Raises:
            InputError: neither `schedule` nor `total_steps` is known, or nothing is tracked.
        """
        if self.running_var is None or self.num_batches_tracked is None:
            raise InputError("batch renorm: expected running statistics; got track_running_stats=False")
        if self._schedule is None:
            raise InputError(
                "batch renorm: expected total_steps (the length of the training run, which scales the default "
                "schedule) or a schedule; got neither; pass one, or call set_total_steps before training"
            )
        return bounds_at(self._schedule, snapshot(self.num_batches_tracked))

    def correction(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """r and d that a training forward on `x` would use, of shape (channels,); updates nothing.

        >>> layer = BatchRenorm1d(1, schedule="keras", track="var", eps=0.0)
        >>> [value.item() for value in layer.correction(torch.tensor([[1.0], [5.0]]))]
        [2.0, 3.0]
        """
        self._check_input_dim(x)
        bounds = self.bounds()
        with torch.no_grad():
            of_batch = moments(x if x.dtype == torch.float64 else x.float())
            running = self._running()
            assert running is not None  # bounds() has refused otherwise
            r, d = correction(of_batch, running, self.epsilon, bounds)
        return r[0], d[0]

    def _bounds(self) -> Renorm:
        return self.bounds()

    def _lost_by_converters(self) -> str:
        return "the renormalization"

    def reset_running_stats(self) -> None:
        """Set the running statistics and the counter back to their initial values."""
        super().reset_running_stats()
        std = buffers_of(self).get("running_std")
        if std is not None:
            std.fill_(1)

    def extra_repr(self) -> str:
        """The settings of batch norm, then the schedule."""
        return f"{super().extra_repr()}, schedule={self._schedule!r}, track={self.track!r}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        key = f"{prefix}running_std"
        if self.track == "std" and key not in state_dict and f"{prefix}running_var" in state_dict:
            # a checkpoint of plain batch norm
            state_dict[key] = (state_dict[f"{prefix}running_var"].float() + self.epsilon).sqrt()
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class BatchRenorm1d(RenormBase, nn.BatchNorm1d):
    """Batch renormalization of (batch, channels) or (batch, channels, length) inputs.

        y = γ·((x − μ_B)/σ_B·r + d) + β
        r = clip(σ_B/σ, 1/r_max, r_max)    d = clip((μ_B − μ)/σ, −d_max, d_max)

    In training μ_B and σ_B = sqrt(var_B + eps) are those of the batch, μ and σ = sqrt(running_var + eps) the
    running values before this step's update; r and d are constants of the backward. Where they are not
    clipped, the training output is the evaluation output. In evaluation it is batch norm, and its state dict is
    batch norm's: checkpoints load both ways. r_max=1, d_max=0 is batch norm.

    The bounds follow `num_batches_tracked`, one per training forward. By default they open in the paper's shape
    over `total_steps`, which is required, here or by `set_total_steps`, before the first training forward.

    The paper averages the standard deviation, torch the variance, and so does `track="var"`. At tiny counts that
    matters: with n = 2 values the median r is 0.48 (0.85 by the paper's estimate) and 36 % of r are clipped
    (21 %). `track="std"` averages sqrt(var_B + eps) in a buffer `running_std` of its own and uses it for σ in
    training and in evaluation: an extra key in the state dict (one without it loads, by its running_var). Torch's
    fusers know no such buffer and are refused: `eps`, which they read, is called `epsilon` then.

    Not for `torch.compile` together with activation checkpointing: the recomputed forward would normalise by
    statistics that have moved, and gradients would be wrong. Either alone is right.

    Args:
        num_features: number of channels C, the size of dimension 1 of the input.
        eps: finite number ≥ 0 that is added to the variance.
        momentum: weight of the new batch in the running statistics; None is the cumulative average.
        affine: whether there are γ (`weight`, initially 1) and β (`bias`, initially 0), of shape (C,).
        track_running_stats: whether running statistics are kept; training needs them.
        device: where parameters and buffers are made.
        dtype: of γ and β; running statistics are float32 at least.
        bias: with `affine`, whether there is β beside γ; False needs a torch whose batch norms know it.
        schedule: "paper", "crossq", "keras", "constant", or a callable step -> (r_max, d_max).
        total_steps: length of the training run in steps, for the default schedule; not together with `schedule`.
        track: "var" averages the variance, as torch does; "std" the standard deviation, as the paper and Keras do. None
            is "std" with the schedule "keras", and "var" with all others.
        ghost_batch_size: in training, normalise every chunk of so many samples by its own statistics; None is all.
        process_group: ranks that share statistics, "world" for all, None for none; see `BatchNorm1d`.
        on_small_batch: one value per channel in training: "error", or "running" to use the running statistics.
        on_nonfinite: "skip" keeps NaN and inf out of the running statistics; "propagate" does not.

    Raises:
        InputError: an argument or an input does not fit; says what was expected, and where.

    >>> layer = BatchRenorm1d(1, schedule="keras", affine=False, eps=0.0)
    >>> layer(torch.tensor([[1.0], [5.0]]))
    tensor([[1.],
            [5.]])

    Source: Ioffe (2017), arXiv:1702.03275.
    """

    spatial = (0, 1)


class BatchRenorm2d(RenormBase, nn.BatchNorm2d):
    """Batch renormalization of (batch, channels, height, width) inputs; otherwise as `BatchRenorm1d`.

    >>> BatchRenorm2d(3, total_steps=1000)(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """

    spatial = (2,)


class BatchRenorm3d(RenormBase, nn.BatchNorm3d):
    """Batch renormalization of (batch, channels, depth, height, width) inputs; otherwise as `BatchRenorm1d`.

    >>> BatchRenorm3d(3, total_steps=1000)(torch.ones(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 4, 4, 4])
    """

    spatial = (3,)


class _LazyRenorm(LazyBase):
    """What a lazy batch renormalization layer adds to a lazy batch norm: its bounds, and `running_std`."""

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
        schedule: str | Schedule | None = None,
        total_steps: int | None = None,
        track: Literal["var", "std"] | None = None,
        ghost_batch_size: int | None = None,
        process_group: dist.ProcessGroup | Literal["world"] | None = None,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
    ) -> None:
        super().__init__(
            eps, momentum, affine, track_running_stats, device, dtype, bias=bias,
            ghost_batch_size=ghost_batch_size, process_group=process_group,
            on_small_batch=on_small_batch, on_nonfinite=on_nonfinite,
        )  # fmt: skip
        self._configure_renorm(schedule, total_steps, track)  # type: ignore[operator]
        if self.track == "std" and self.running_var is not None:
            like: Any = {"device": self.running_var.device, "dtype": self.running_var.dtype}
            self.register_buffer("running_std", UninitializedBuffer(**like))

    def initialize_parameters(self, input: Tensor, *_: Any, **__: Any) -> None:
        """Take the number of channels from the first input."""
        std = buffers_of(self).get("running_std")
        if isinstance(std, UninitializedBuffer):
            std.materialize(input.shape[1:2])
        super().initialize_parameters(input)


class LazyBatchRenorm1d(_LazyRenorm, BatchRenorm1d):
    """`BatchRenorm1d` that takes `num_features` from its first input.

    >>> layer = LazyBatchRenorm1d(schedule="paper")
    >>> layer(torch.ones(4, 3)).shape, type(layer).__name__
    (torch.Size([4, 3]), 'BatchRenorm1d')
    """

    cls_to_become = BatchRenorm1d


class LazyBatchRenorm2d(_LazyRenorm, BatchRenorm2d):
    """`BatchRenorm2d` that takes `num_features` from its first input.

    >>> layer = LazyBatchRenorm2d(schedule="paper")
    >>> layer(torch.ones(4, 3, 2, 2)).shape, type(layer).__name__
    (torch.Size([4, 3, 2, 2]), 'BatchRenorm2d')
    """

    cls_to_become = BatchRenorm2d


class LazyBatchRenorm3d(_LazyRenorm, BatchRenorm3d):
    """`BatchRenorm3d` that takes `num_features` from its first input.

    >>> layer = LazyBatchRenorm3d(schedule="paper")
    >>> layer(torch.ones(4, 3, 2, 2, 2)).shape, type(layer).__name__
    (torch.Size([4, 3, 2, 2, 2]), 'BatchRenorm3d')
    """

    cls_to_become = BatchRenorm3d
