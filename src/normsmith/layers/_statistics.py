"""What every batch norm layer shares: its running statistics, and the policy of their use and update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _LazyNormBase, _NormBase

from normsmith.errors import InputError
from normsmith.layers._where import where
from normsmith.ops import Renorm, batch_norm

STATISTICS = ("running_mean", "running_var", "running_std")


class Policy(NamedTuple):
    """Which statistics normalise, and whether the running ones are updated. (Whether γ and β train is theirs.)"""

    normalize_with: Literal["batch", "running"]
    update_running: bool


class StatisticsBase(_NormBase):
    """A torch norm (its parameters, buffers and state dict) that runs on `normsmith.ops.batch_norm`.

    Running buffers never fall below float32, whatever `.half()`, `.bfloat16()` or a checkpoint says.
    """

    spatial: tuple[int, ...] = ()
    """How many dimensions may follow (batch, channels)."""

    def __init__(
        self,
        *torch_arguments: Any,
        ghost_batch_size: int | None = None,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
        **torch_options: Any,
    ) -> None:
        # torch's own arguments go through as they are: the constructor is that of the installed torch
        super().__init__(*torch_arguments, **torch_options)
        self._configure(ghost_batch_size, on_small_batch, on_nonfinite)
        self._at_least_float32()

    def _configure(self, ghost_batch_size: int | None, on_small_batch: str, on_nonfinite: str) -> None:
        _one_of("on_small_batch", on_small_batch, ("error", "running"))
        _one_of("on_nonfinite", on_nonfinite, ("skip", "propagate"))
        size = ghost_batch_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise InputError(f"ghost_batch_size: expected a positive whole number or None, got {size!r}")
        self.ghost_batch_size = size
        self.on_small_batch = on_small_batch
        self.on_nonfinite = on_nonfinite
        self._pinned: Policy | None = None

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Normalise a batch.

        Args:
            x: shape (batch, channels, *space), floating point; the output has its dtype.
            mask: bool or 0/1 integers, True = valid, the shape of x without channels, broadcastable.
            sample_weight: ≥ 0, shape (batch,) or that of x without channels.
            residual: shape of x, added to the result.

        Raises:
            InputError: an argument does not fit. The running statistics are then as they were.
        """
        try:
            return self._normalise(x, self.policy, mask, sample_weight, residual)
        except InputError as error:
            raise InputError(f"{where(self)}: {error}") from None

    @property
    def policy(self) -> Policy:
        """What the next forward will do: pinned by `freeze`, else derived as torch derives it."""
        if self._pinned is not None:
            return self._pinned
        tracked = self.running_mean is not None and self.running_var is not None
        if self.training or not tracked:
            return Policy("batch", self.training and self.track_running_stats and tracked)
        return Policy("running", False)

    def freeze(self, normalize_with: Literal["batch", "running"] = "running") -> Self:
        """Pin the statistics: no update, whatever `.train()` is called on a parent, until `unfreeze()`.

        γ and β go on training; set their `requires_grad` for that.

        Raises:
            InputError: there are no running statistics to normalise with.
        """
        _one_of("normalize_with", normalize_with, ("batch", "running"))
        if normalize_with == "running" and self.running_mean is None:
            raise InputError(
                f"{where(self)}: expected running statistics to freeze to, got a layer without any "
                '(track_running_stats=False); use freeze("batch")'
            )
        self._pinned = Policy(normalize_with, False)
        return self

    def unfreeze(self) -> Self:
        """Undo `freeze`: the policy follows `training` again."""
        self._pinned = None
        return self

    def _normalise(
        self,
        x: Tensor,
        policy: Policy,
        mask: Tensor | None,
        sample_weight: Tensor | None,
        residual: Tensor | None,
    ) -> Tensor:
        self._check_input_dim(x)
        return batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            normalize_with=policy.normalize_with,
            update_running=policy.update_running,
            momentum=self.momentum,
            eps=self.eps,
            num_batches_tracked=self.num_batches_tracked,
            running_std=self._buffers.get("running_std"),
            mask=mask,
            sample_weight=sample_weight,
            ghost_batch_size=self.ghost_batch_size,
            renorm=self._bounds() if policy.normalize_with == "batch" else None,
            residual=residual,
            on_small_batch=self.on_small_batch,
            on_nonfinite=self.on_nonfinite,
        )

    def _bounds(self) -> Renorm | None:
        """Bounds of batch renormalization at this step; None in plain batch norm."""
        return None

    def _check_input_dim(self, x: Tensor) -> None:
        expected = [2 + dimensions for dimensions in self.spatial]
        if x.dim() not in expected:
            raise InputError(
                f"{type(self).__name__}: expected a {' or '.join(f'{n}-D' for n in expected)} input, "
                f"(batch, channels{', ...' if expected[-1] > 2 else ''}), got shape {tuple(x.shape)}"
            )
        if x.shape[1] != self.num_features:
            raise InputError(
                f"{type(self).__name__}: expected {self.num_features} channels in dimension 1, "
                f"got shape {tuple(x.shape)}; channels come second"
            )

    def extra_repr(self) -> str:
        """Torch's settings, then ours where they are not the default."""
        defaults = {"ghost_batch_size": None, "on_small_batch": "error", "on_nonfinite": "skip"}
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name, default in defaults.items()
            if getattr(self, name) != default
        ]
        if self._pinned is not None:
            changed.append(f"frozen to {self._pinned.normalize_with} statistics")
        return ", ".join([super().extra_repr(), *changed])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: self._buffers.get(name) for name in STATISTICS}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers.get(name)
            if old is not None and new is not None and _is_below_float32(new):
                # from the old values: their digits would be gone in half precision
                self._buffers[name] = old.to(device=new.device, dtype=torch.float32)
        return self

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self._at_least_float32()

    def _at_least_float32(self) -> None:
        for name in STATISTICS:
            buffer = self._buffers.get(name)
            if buffer is not None and _is_below_float32(buffer) and not torch.nn.parameter.is_lazy(buffer):
                self._buffers[name] = buffer.float()


class LazyBase(_LazyNormBase):
    """What our lazy layers add to torch's: settings, and buffers of float32 at least once they exist."""

    def __init__(
        self,
        *torch_arguments: Any,
        ghost_batch_size: int | None = None,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
        **torch_options: Any,
    ) -> None:
        super().__init__(*torch_arguments, **torch_options)
        self._configure(ghost_batch_size, on_small_batch, on_nonfinite)  # type: ignore[operator]

    def initialize_parameters(self, x: Tensor, *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Take the number of channels from the first input."""
        if x.ndim < 2:
            raise InputError(
                f"{type(self).__name__}: expected an input of shape (batch, channels, ...), got {tuple(x.shape)}"
            )
        super().initialize_parameters(x)  # type: ignore[no-untyped-call]
        self._at_least_float32()  # type: ignore[operator]


def _is_below_float32(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() < 4


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name}: expected one of {', '.join(map(repr, allowed))}; got {value!r}")
