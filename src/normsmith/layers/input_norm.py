"""Standardisation of raw inputs, learned while training or fitted once over the whole training set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from normsmith._torch import buffers_of
from normsmith.errors import InputError
from normsmith.layers._layouts import call_strided, is_strided
from normsmith.layers._recompute import ForwardState
from normsmith.layers._symbolic import call_in_graph, is_symbol
from normsmith.layers._where import where
from normsmith.layers.batches import Select, tensor_of_batch
from normsmith.layers.dataset import DatasetMoments
from normsmith.layers.policy import Policy
from normsmith.layers.scripted import unscriptable
from normsmith.layers.statistics import Normalised, StatisticsBase
from normsmith.layers.suggestion import Suggestion, suggestion
from normsmith.ops.masks import valid_elements


class InputNorm(StatisticsBase):
    """Standardisation of raw inputs whose features differ in scale: zero mean and unit variance, no γ and β.

        y = (x − μ)/σ        y = x − μ for a feature that never varies

    **Fitted** (`fit(loader)`, once, before training): μ and σ are the exact mean and (biased) standard deviation
    of the whole training set, in training and in evaluation alike; nothing moves any more. No eps is added, so a
    feature of standard deviation 1e-9 comes out with 1 as well.

    **Learned online** (no `fit`): batch norm without affine. Training normalises by the batch, with `eps` in the
    variance, and the running statistics follow, by default as the cumulative average of the batches; evaluation
    uses them. Prefer `fit`: the average of batch variances lacks what differs between batches.

    Constant features: a feature that never varied in the fit, or, learned online, whose σ is below the rounding of
    μ, is only centred. Its values come out as 0, and a value never seen before passes at its own scale, not blown
    up.

    Integer and bool inputs are converted, by way of float64 where float32 cannot hold them; the output is then
    float32 (float64 after `.double()`). Other inputs keep their dtype.

    Args:
        num_features: size of the feature axis.
        dim: which axis of the input holds the features: 1 for (N, F), (N, C, L), (N, C, H, W); -1 for (N, T, F).
        eps: finite number ≥ 0, added to the batch's variance when learning online. A feature whose standard deviation
            is not well above sqrt(eps) comes out too small: lower it, or use `fit`.
        momentum: weight of the new batch when learning online; None is the cumulative average.
        device: where the buffers are made.
        dtype: of the buffers; float32 at least.
        ghost_batch_size: learning online, normalise every chunk of so many samples by its own statistics; None is all.
        process_group: learning online, ranks that share statistics, "world" for all; see `BatchNorm1d`.
        on_small_batch: learning online, a single row: "error", or "running" to use the running statistics.
        on_nonfinite: learning online, "skip" keeps NaN and inf out of the statistics; "propagate" does not.

    Raises:
        InputError: an argument or an input does not fit; says what was expected, and where.

    >>> layer = InputNorm(2).fit([torch.tensor([[0, 1000], [2, 3000]]), torch.tensor([[4, 5000]])])
    >>> layer(torch.tensor([[2, 3000], [4, 1000]])).round(decimals=2)
    tensor([[ 0.0000,  0.0000],
            [ 1.2200, -1.2200]])

    Source: LeCun, Bottou, Orr, Müller (1998), "Efficient BackProp", section 4.3; online: Ioffe and Szegedy
    (2015), arXiv:1502.03167.
    """

    is_batch_norm = False
    running_mean_low: Tensor
    fitted: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        dim: int = 1,
        eps: float = 1e-12,
        momentum: float | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        ghost_batch_size: int | None = None,
        process_group: dist.ProcessGroup | Literal["world"] | None = None,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
    ) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim == 0:
            raise InputError(
                f"InputNorm: expected dim to name the axis of the features, not 0, the batch; got {dim!r}"
            )
        super().__init__(
            num_features, eps, momentum, False, True, device, dtype,
            ghost_batch_size=ghost_batch_size, process_group=process_group,
            on_small_batch=on_small_batch, on_nonfinite=on_nonfinite,
        )  # fmt: skip
        self.dim = dim
        # what float32 leaves of the mean: raw inputs may lie far from zero (a year, a time stamp)
        self.register_buffer("running_mean_low", torch.zeros_like(self._mean()))
        self.register_buffer("fitted", torch.tensor(False, device=device))
        self._is_fitted = False

    def fit(self, loader: Iterable[Any] | Tensor, select: Select = None, mask: Select = None) -> InputNorm:
        """Set the statistics to those of the whole data set, exactly, and keep them from now on.

            count, μ and M2 of every batch in float64, merged by Chan's formula;  σ² = M2 / count

        One pass, in constant memory; how the data are cut into batches, and their order, do not matter.

        Args:
            loader: batches, or one tensor that is the whole set.
            select: what of a batch is the input: a key of a dict, an index of a tuple, or a function. By default
                the batch itself if it is a tensor, else the first element of a tuple or list.
            mask: what of a batch is the mask, likewise: padding then counts nowhere. True or 1 = valid.

        Raises:
            InputError: no data, a batch of another shape, NaN or infinite values (their features are named),
                or a batch from which `select` cannot take a tensor. The layer is then as it was.
        """
        try:
            moments = self._measure(loader, select, mask)
        except InputError as error:
            raise InputError(f"{where(self)}.fit: {error}") from None
        with torch.no_grad():
            mean = self._mean()
            mean.copy_(moments.mean)
            self.running_mean_low.copy_(moments.mean - mean.to(device="cpu", dtype=torch.float64))
            self._var().copy_(moments.variance)
            self._batches().fill_(moments.batches)
        self._set_fitted(True)
        return self

    @staticmethod
    def suggest(
        data: Iterable[Any] | Tensor | Any, select: Select = None, *, dim: int = 1, limit: int = 100_000
    ) -> Suggestion:
        """Say, per feature, whether a quantile or power transform should come before this layer, and why.

        See `normsmith.layers.suggestion.suggestion`. Needs scikit-learn.
        """
        return suggestion(data, select, dim=dim, limit=limit)

    def forward(  # type: ignore[override]  # an input has no residual
        self, x: Tensor, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Standardise a batch.

        Args:
            x: at least two dimensions, the batch first, features along `dim`; real, of any dtype.
            mask: bool or 0/1 integers, True = valid, the shape of x without the features, broadcastable. Padding
                counts nowhere and its output is 0.
            sample_weight: ≥ 0, shape (batch,) or that of x without the features; counts when learning online.

        Raises:
            InputError: an argument does not fit. The running statistics are then as they were.
        """
        if is_symbol(x):
            return call_in_graph(self, x, mask, sample_weight)
        if not is_strided(x):
            return call_strided(self, x, mask, sample_weight)
        axis = self._axis(x)
        y = super().forward(_floating(x).movedim(axis, 1), mask, sample_weight)
        return y.movedim(1, axis).to(x.dtype if x.is_floating_point() else self._mean().dtype)

    @property
    def policy(self) -> Policy:
        """As in `BatchNorm1d` while learning; once fitted, the statistics of the fit in training too."""
        if self._is_fitted:
            return Policy("running", False)
        policy: Policy = StatisticsBase.policy.__get__(self)  # the compiler does not know super().policy
        return policy

    def normalised(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
        *,
        default_mask: Tensor | None = None,
    ) -> Normalised:
        """What a forward with these arguments standardises, with the features in dimension 1."""
        x = _floating(x).movedim(self._axis(x), 1)
        return super().normalised(x, mask, sample_weight, default_mask=default_mask)

    def reset_running_stats(self) -> None:
        """Forget the fit and all statistics: the layer learns online again."""
        super().reset_running_stats()
        if "running_mean_low" in buffers_of(self):  # torch's constructor resets before ours has made it
            self.running_mean_low.zero_()
            self._set_fitted(False)

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse: torch has no standardisation of inputs that its script could call."""
        raise unscriptable(self)

    def extra_repr(self) -> str:
        """The features and their axis, how the statistics come about, and what is not the default."""
        parts = [str(self.num_features), f"dim={self.dim}"]
        if self._is_fitted:
            return ", ".join([*parts, "fitted"])
        parts += [f"eps={self.epsilon}", f"momentum={self.momentum}"]
        options = ("ghost_batch_size", "process_group")
        return ", ".join(
            parts + [f"{name}={getattr(self, name)!r}" for name in options if getattr(self, name)]
        )

    def _measure(self, loader: Iterable[Any] | Tensor, select: Select, mask: Select) -> DatasetMoments:
        """One pass over the data; a refused batch is named by its number."""
        moments = DatasetMoments(self.num_features)
        for number, batch in enumerate([loader] if isinstance(loader, Tensor) else loader):
            try:
                x = tensor_of_batch(batch, select, "select")
                valid = None if mask is None else tensor_of_batch(batch, mask, "mask")
                moments.add(x.movedim(self._axis(x), 1), valid)
            except InputError as error:
                raise InputError(f"batch {number}: {error}") from None
        return moments.checked()

    def _normalise(
        self, x: Tensor, state: ForwardState, sample_weight: Tensor | None, residual: Tensor | None
    ) -> Tensor:
        """By the batch as any batch norm does; by running statistics without eps, constants only centred."""
        if state.normalize_with == "batch" or state.running is None:
            return super()._normalise(x, state, sample_weight, residual)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        shape = (1, -1, *[1] * (x.ndim - 2))
        mean, var = state.running.mean.detach().to(dtype), state.running.var.detach().to(dtype)
        low = self.running_mean_low.to(dtype)
        # a fit marks constant features by a variance of 0; averages of batches only come near it
        rounding = 0.0 if self._is_fitted else torch.finfo(self._mean().dtype).eps * mean
        varies = var > rounding**2
        inv_std = torch.where(varies, var, 1.0).rsqrt()
        y = ((x.to(dtype) - mean.view(shape)) - low.view(shape)) * inv_std.view(shape)
        valid = valid_elements(state.mask, x)
        return y if valid is None else torch.where(valid, y, 0.0)

    def _axis(self, x: Tensor) -> int:
        """Where the features are, counted from the front."""
        axis = self.dim + x.ndim if self.dim < 0 else self.dim
        if x.ndim < 2 or not 0 < axis < x.ndim or x.shape[axis] != self.num_features:
            raise InputError(
                f"{where(self)}: expected an input of shape (batch, ...) with {self.num_features} features along "
                f"dim={self.dim}, got shape {tuple(x.shape)}; dim says which axis holds the features"
            )
        return axis

    def _check_input_dim(self, x: Tensor) -> None:
        if x.is_complex():
            raise InputError(
                f"expected real values, got {x.dtype}; pass torch.view_as_real(x) as two features"
            )

    def _set_fitted(self, fitted: bool) -> None:
        """Keep whether the layer is fitted in the state dict and, for the policy, as a plain attribute."""
        self.fitted.fill_(fitted)
        self._is_fitted = fitted  # known on the host: the device is never waited for

    def _mean(self) -> Tensor:
        assert self.running_mean is not None
        return self.running_mean

    def _var(self) -> Tensor:
        assert self.running_var is not None
        return self.running_var

    def _batches(self) -> Tensor:
        assert self.num_batches_tracked is not None
        return self.num_batches_tracked

    def _lost_by_converters(self) -> str:
        return "the standardisation of raw inputs"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> InputNorm:
        # `running_mean_low` is the rest of the mean in the dtype that the mean has after the cast
        high, low = self._mean(), self.running_mean_low
        super()._apply(fn, recurse)
        mean = self._mean()  # float32 at least, whatever fn is
        if mean.dtype != high.dtype:
            rest = high.double() - high.to(mean.dtype).double() + low.double()
            self.running_mean_low = rest.to(mean)
        elif self.running_mean_low.dtype != mean.dtype:
            self.running_mean_low = low.to(mean)
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        self.running_mean_low = self.running_mean_low.to(self._mean().dtype)
        fitted = state_dict.get(f"{prefix}fitted")
        if isinstance(fitted, Tensor) and not fitted.is_meta:
            self._is_fitted = bool(fitted)


def _floating(x: Tensor) -> Tensor:
    """Integers as floating-point numbers that hold them: float32 for up to 16 bits, else float64."""
    if x.is_floating_point() or x.is_complex():
        return x
    return x.to(torch.float32 if x.element_size() <= 2 else torch.float64)
