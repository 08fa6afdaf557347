"""Whitening layers: what batch norm does for each channel, for groups of channels and their correlations."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from normsmith._choices import check_choice
from normsmith._torch import buffers_of
from normsmith.errors import InputError
from normsmith.layers._layouts import call_strided, is_strided
from normsmith.layers._symbolic import call_in_graph, is_symbol
from normsmith.layers._where import where
from normsmith.layers.scripted import unscriptable
from normsmith.layers.statistics import StatisticsBase
from normsmith.ops import Running
from normsmith.ops.inverse_root import METHODS, inverse_root
from normsmith.ops.whiten import Comoments, RunningWhitening, commit_whitening, merge_comoments, whiten


class WhitenBase(StatisticsBase):
    """What whitening layers share with batch norm: policy, freezing, masks, accumulation. `Whiten1d` documents it.

    They keep `running_whitening`, one matrix for each group, in the place of `running_var`.
    """

    is_batch_norm = False
    unmeasurable = "whitening keeps matrices, not variances"
    statistics = ("running_mean", "running_whitening")
    running_whitening: Tensor | None
    _collected: Any

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
        groups: int = 1,
        method: Literal["zca", "newton"] = "zca",
        iterations: int = 5,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
    ) -> None:
        for name, number in {
            "num_features": num_features,
            "groups": groups,
            "iterations": iterations,
        }.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise InputError(f"{name}: expected a positive whole number, got {number!r}")
        if num_features % groups:
            raise InputError(f"groups: expected a divisor of num_features={num_features}, got {groups}")
        check_choice("method", method, METHODS)
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            on_small_batch=on_small_batch,
            on_nonfinite=on_nonfinite,
        )
        self.groups, self.method, self.iterations = groups, method, iterations
        matrices = None
        if self.running_mean is not None:
            size = num_features // groups
            matrices = torch.eye(size, dtype=self.running_mean.dtype, device=device).repeat(groups, 1, 1)
        self.register_buffer("running_var", None)
        self.register_buffer("running_whitening", matrices)

    def forward(  # type: ignore[override]
        self, x: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Whiten a batch.

        Args:
            x: shape (batch, channels, *space), floating point; the output has its dtype.
            mask: bool or 0/1 integers, True = valid, the shape of x without channels, broadcastable.

        Raises:
            InputError: an argument does not fit. The running statistics are then as they were.
        """
        if is_symbol(x):
            return call_in_graph(self, x, mask)
        if not is_strided(x):
            return call_strided(self, x, mask)
        try:
            self._check_input_dim(x)
            state = self._state_of_forward(mask)
            running = state.running
            return whiten(
                x,
                None if running is None else running.mean,
                None if running is None else running.var.view(self.groups, *self._square),
                self.weight,
                self.bias,
                groups=self.groups,
                method=self.method,
                iterations=self.iterations,
                normalize_with=state.normalize_with,
                update_running=state.update_running,
                momentum=self.momentum,
                eps=self.epsilon,
                num_batches_tracked=None if running is None else running.batches,
                mask=state.mask,
                on_small_batch=self.on_small_batch,
                on_nonfinite=self.on_nonfinite,
                collected=self._collected if state.update_running else None,
            )
        except InputError as error:
            raise InputError(f"{where(self)}: {error.args[0]}") from None

    def commit_collected(self, collected: list[Any]) -> None:
        """One update of the running statistics from the covariance of several micro-batches."""
        running = self._running()
        if not collected or running is None:
            return
        merged: Comoments = merge_comoments(collected)
        with torch.no_grad():
            matrix = inverse_root(merged.covariance(self.epsilon), self.method, self.iterations)
        commit_whitening(
            RunningWhitening(running.mean, running.var.view(self.groups, *self._square), running.batches),
            merged,
            matrix,
            momentum=self.momentum,
            on_nonfinite=self.on_nonfinite,
        )

    def reset_running_stats(self) -> None:
        """Set the running statistics and the counter back to their initial values."""
        matrices = buffers_of(self).get("running_whitening")  # not there yet in torch's constructor
        if self.running_mean is not None and matrices is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            matrices.zero_().diagonal(dim1=1, dim2=2).fill_(1)
            self.num_batches_tracked.zero_()

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse: torch has no whitening that its script could call."""
        raise unscriptable(self)

    def extra_repr(self) -> str:
        """Torch's settings, then ours."""
        text = f"{super().extra_repr()}, groups={self.groups}, method={self.method!r}"
        return f"{text}, iterations={self.iterations}" if self.method == "newton" else text

    @property
    def _square(self) -> tuple[int, int]:
        return (self.num_features // self.groups,) * 2

    def _running(self) -> Running | None:
        if self.running_mean is None or self.running_whitening is None:
            return None
        # the matrices take the place of a variance
        return Running(self.running_mean, self.running_whitening, None, self.num_batches_tracked)

    def _lost_by_converters(self) -> str:
        return "the whitening"


class Whiten1d(WhitenBase):
    """Whitening of (batch, channels) or (batch, channels, length) inputs: decorrelated batch norm.

        y = γ·W(x − μ) + β        W = (Σ + eps·I)^(−1/2)

    For each group of channels: uncorrelated, of variance one, and as close to the input as that allows (ZCA). In
    training μ and Σ are the mean and the biased covariance of the batch, and the running mean and the running matrix
    move towards μ and W by `momentum`; in evaluation the running ones are used. With `groups=num_features` it is
    batch norm. Computed in float32 at least. Gradients stay finite where eigenvalues are equal.

    Σ has full rank only with more values per channel than channels in a group. Fewer are an error in training
    (`on_small_batch`), or, where only a mask tells, the running statistics are used and nothing is updated.

    Args:
        num_features: number of channels C, the size of dimension 1 of the input.
        eps: finite number ≥ 0 that is added to the diagonal of Σ; with 0 Σ must have full rank.
        momentum: weight of the new batch in the running mean and matrix; None is the cumulative average.
        affine: whether there are γ (`weight`, initially 1) and β (`bias`, initially 0), of shape (C,).
        track_running_stats: whether running statistics are kept; without them evaluation uses the batch's.
        device: where parameters and buffers are made.
        dtype: of γ and β; running statistics are float32 at least.
        groups: how many groups of consecutive channels are whitened apart; a divisor of C.
        method: "zca", by eigendecomposition, exact; or "newton", by iterations that approach it: faster on a GPU, and
            gentle to directions of little variance.
        iterations: of "newton".
        on_small_batch: too few values for a covariance, known by the shape: "error", or "running".
        on_nonfinite: "skip" keeps NaN and inf out of the running statistics; "propagate" does not.

    Raises:
        InputError: an argument or an input does not fit; says what was expected, and where.

    >>> import torch
    >>> x = torch.randn(64, 4) @ torch.randn(4, 4)
    >>> y = Whiten1d(4)(x)
    >>> torch.allclose(y.T @ y / 64, torch.eye(4), atol=0.01)
    True

    Source: Huang et al. (2018), arXiv:1804.08450; "newton": Huang et al. (2019), arXiv:1904.03441.
    """

    spatial = (0, 1)


class Whiten2d(WhitenBase):
    """Whitening of (batch, channels, height, width) inputs; otherwise as `Whiten1d`.

    >>> import torch
    >>> Whiten2d(8, groups=2, method="newton")(torch.randn(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    spatial = (2,)
