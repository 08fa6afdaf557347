"""Batch norm whose statistics are kept apart for every time step, as recurrent networks need it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normsmith._torch import backward_hooks_of, for_captured, forward_hooks_of, forward_pre_hooks_of
from normsmith.errors import InputError
from normsmith.layers._recompute import ForwardState, state_of_forward
from normsmith.layers.batch_norm import BatchNorm1d
from normsmith.layers.statistics import Normalised, StatisticsBase
from normsmith.ops import Moments, Running, batch_norm, commit, concatenate, merge, snapshot
from normsmith.ops.call import PreparedSteps
from normsmith.ops.steps import prepare_steps


@dataclass
class StepwiseForward:
    """One forward of a `StepNorm` through the time steps, from `start` to `finish`."""

    mean: Tensor
    """Copies of the running means of its steps, shape (steps, channels): they normalise where the batch cannot."""
    var: Tensor
    """Copies of the running variances, likewise."""
    uses_batch: bool
    """Whether the batch's own statistics normalise."""
    updates: bool
    """Whether `finish` updates the running statistics."""
    first: int
    """The number of its first step, which chooses the rows of the running statistics."""
    scale_and_shift: tuple[Tensor, Tensor] | None = None
    """γ / √(var + ε) and β − mean·γ / √(var + ε) of its steps, once running statistics have normalised one."""
    moments: list[Moments] = field(default_factory=list)
    """The batch's moments at the steps so far."""


class StepNorm(StatisticsBase):
    """Batch norm of one product or state of a recurrent cell: statistics per step, γ (and β) shared by all steps.

    Row t of `running_mean` and `running_var`, of shape (max_steps, channels), belongs to step t; the last row to
    all steps from there on, which together make one update of it per forward. `num_batches_tracked`, of shape
    (max_steps,), counts the updates of each row. A step whose row has had none yet uses the nearest earlier row
    that has: sequences may be longer in evaluation than they ever were in training.
    """

    is_batch_norm = False
    unmeasurable = "keeps statistics for every time step, not for a population"
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        channels: int,
        max_steps: int,
        *,
        gamma: float = 0.1,
        beta: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            channels,
            eps,
            momentum,
            device=device,
            dtype=dtype,
            on_small_batch=on_small_batch,
            on_nonfinite=on_nonfinite,
        )
        self.max_steps, self.gamma = max_steps, gamma
        self.running_mean = self.running_mean.repeat(max_steps, 1)
        self.running_var = self.running_var.repeat(max_steps, 1)
        self.num_batches_tracked = torch.zeros(max_steps, dtype=torch.long, device=device)
        _reset_affine(self, gamma, beta)

    def start(self, steps: int, batch: int, first: int) -> StepwiseForward:
        """Begin a forward of so many steps, whose first has the number `first`.

        Raises:
            InputError: the batch is a single sequence, which has no statistics per step.
        """
        policy = self.policy
        if policy.normalize_with == "batch" and batch == 1 and self.on_small_batch == "error":
            raise InputError(
                "statistics per step: expected more than one sequence in training, got a batch of one; use larger "
                'batches (e.g. drop_last=True), normalize="input", or on_small_batch="running"'
            )
        state = state_of_forward(self, lambda: ForwardState(self._rows(steps, first), None, None, *policy))
        assert state.running is not None  # the line above gives it
        uses_batch = state.normalize_with == "batch" and batch > 1
        return StepwiseForward(
            mean=state.running.mean,
            var=state.running.var,
            uses_batch=uses_batch,
            updates=uses_batch and state.update_running,
            first=first,
        )

    def forward(  # type: ignore[override]
        self, x: Tensor, this: StepwiseForward, step: int = 0, alive: Tensor | None = None
    ) -> Tensor:
        """Normalise some steps at once.

        Args:
            x: shape (steps, batch, channels).
            this: the forward that `start` began.
            step: which of the steps of that forward is the first of x.
            alive: bool, shape (steps, batch): which sequences are still running.
        """
        steps = slice(step, step + len(x))
        if not this.uses_batch:
            return self._normalise_by_running(x, this, steps)
        mean, var = this.mean[steps], this.var[steps]
        # a step is a ghost batch; where x is a single step, the op knows what to fall back to
        single = len(x) == 1
        y = batch_norm(
            x.flatten(0, 1),
            mean[0] if single else None,
            var[0] if single else None,
            self.weight,
            self.bias,
            eps=self.epsilon,
            mask=None if alive is None else alive.flatten(),
            ghost_batch_size=x.shape[1],
            collected=this.moments,
        ).view_as(x)
        enough = this.moments[-1].enough
        if not single and isinstance(enough, Tensor) and alive is not None:
            fallback = torch.where(alive.unsqueeze(2), self._normalise_by_running(x, this, steps), 0.0)
            y = torch.where(enough.unsqueeze(2), y, fallback)
        return y

    def finish(self, this: StepwiseForward) -> None:
        """End a forward: update the running statistics by the moments of all its steps."""
        if not this.updates:
            return
        # where all steps were measured at once, their counts may be one number
        moments = this.moments[0] if len(this.moments) == 1 else concatenate(this.moments)
        if self._collected is None:
            self._commit(moments, this.first)
            return
        stacked = torch.stack([torch.as_tensor(value).expand_as(moments.mean) for value in moments])
        # one row for each step from the very first; rows of count 0 are left alone
        self._collected.append(Moments(*F.pad(stacked, (0, 0, this.first, 0))))

    def commit_collected(self, collected: list[Moments]) -> None:
        """One update from the moments of several forwards: merged step by step."""
        if not collected:
            return
        steps = max(len(part.mean) for part in collected)
        parts = [torch.stack([torch.as_tensor(value) for value in part]) for part in collected]
        every = torch.stack([F.pad(part, (0, 0, 0, steps - part.shape[1])) for part in parts], dim=1)
        merged = merge(Moments(*every.flatten(2)))
        self._commit(Moments(*(torch.as_tensor(value).view(steps, -1) for value in merged)), 0)

    def reset_parameters(self) -> None:
        """Set the statistics back, γ to its initial value, and β to zero."""
        self.reset_running_stats()
        _reset_affine(self, getattr(self, "gamma", 1.0), self.bias is not None)

    def extra_repr(self) -> str:
        """Channels, steps, and the settings that every norm has."""
        return f"{super().extra_repr()}, max_steps={self.max_steps}, gamma={self.gamma}"

    def _rows(self, steps: int, first: int) -> Running:
        """Copies of the running statistics of each step: an update must not change the values that a backward reads."""
        mean, var = snapshot(self.running_mean), snapshot(self.running_var)
        tracked = snapshot(self.num_batches_tracked)
        own = torch.arange(self.max_steps, device=mean.device)
        updated = torch.where(tracked > 0, own, -1).cummax(0).values
        of_row = torch.where(updated < 0, own, updated)
        rows = of_row[torch.arange(first, first + steps, device=mean.device).clamp(max=self.max_steps - 1)]
        return Running(mean[rows], var[rows])

    def _normalise_by_running(self, x: Tensor, this: StepwiseForward, steps: slice) -> Tensor:
        """Normalise each step of x, shape (steps, batch, channels), by its row of running statistics.

        The rows are small, and steps come one by one: a few operations on them are faster than a kernel for batches.
        """
        scale, shift = self._scale_and_shift(this)
        y: Tensor = x * scale[steps].unsqueeze(1) + shift[steps].unsqueeze(1)
        return y.to(x.dtype)

    def _scale_and_shift(self, this: StepwiseForward) -> tuple[Tensor, Tensor]:
        """What normalises each step of a forward by running statistics, computed once in it."""
        if this.scale_and_shift is None:
            scale = (this.var + self.epsilon).rsqrt() * self.weight
            shift = -this.mean * scale
            this.scale_and_shift = scale, shift if self.bias is None else shift + self.bias
        return this.scale_and_shift

    def constants(
        self, this: StepwiseForward, x: Tensor, added: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]] | None:
        """Scale and shift of each step, where all are normalised by running statistics and nothing looks on.

        `added` is a bias that comes after the norm. None where the norm is to be called: it normalises by the batch,
        has hooks, or works in another dtype than x.
        """
        if this.uses_batch or forward_hooks_of(self) or forward_pre_hooks_of(self):
            return None
        scale, shift = self._scale_and_shift(this)
        if added is not None:
            shift = shift + added
        if not scale.dtype == shift.dtype == x.dtype:
            return None
        return list(zip(scale.unbind(), shift.unbind(), strict=True))

    def prepared(self, this: StepwiseForward, like: Tensor, bias: Tensor | None) -> PreparedSteps | None:
        """The kernels, where all steps are normalised by their batches, shaped as `like`, and nothing looks on.

        `bias` is added after γ: β, or what a cell adds where the norm has no β.

        None where the norm is to be called. Who calls the kernels adds the moments of all steps to the forward's.
        """
        looks_on = (forward_hooks_of(self), forward_pre_hooks_of(self), backward_hooks_of(self))
        if not this.uses_batch or any(looks_on):
            return None
        return prepare_steps(like, self.weight, bias, self.epsilon)

    @torch.no_grad()
    def _commit(self, moments: Moments, first: int) -> None:
        """One update of every row from the moments of all steps, whose first has the number `first`."""
        early = min(max(self.max_steps - 1 - first, 0), len(moments.mean))
        own, shared = slice(first, first + early), slice(self.max_steps - 1, None)
        # early steps have a row each: to the op, channels of their own; the late ones are ghost batches of one row
        for rows, part in (
            (own, _of_steps(moments, slice(early), (1, -1))),
            (shared, _of_steps(moments, slice(early, None), (-1, self.num_features))),
        ):
            if part.mean.numel():
                counter = None  # averages alone need it
                if self.momentum is None:
                    counter = self.num_batches_tracked[rows].repeat_interleave(self.num_features)
                commit(
                    Running(self.running_mean[rows].view(-1), self.running_var[rows].view(-1), None, counter),
                    part,
                    momentum=self.momentum,
                    eps=self.epsilon,
                    on_nonfinite=self.on_nonfinite,
                )
        if self.on_nonfinite == "skip":
            taken = moments.unbiased_variance <= torch.finfo(self.running_var.dtype).max
        else:
            taken = torch.ones_like(moments.mean, dtype=torch.bool)
        if moments.enough is not True:
            taken = taken & moments.enough
        taken = taken.any(1)
        counters = self.num_batches_tracked
        counters[own].add_(for_captured(counters, taken[:early]))
        counters[-1].add_(for_captured(counters, taken[early:].any()))


def _of_steps(moments: Moments, steps: slice, shape: tuple[int, int]) -> Moments:
    """The moments of some steps, as groups and channels; counts that are numbers are those of every step."""
    count, mean, m2, squares, low = (
        value.expand_as(moments.mean)[steps].reshape(shape) if isinstance(value, Tensor) else value
        for value in moments
    )
    assert isinstance(mean, Tensor) and isinstance(m2, Tensor) and isinstance(low, Tensor)  # noqa: PT018
    return Moments(count, mean, m2, squares, low)


class SequenceNorm(BatchNorm1d):
    """Batch norm of input products over all valid steps of all sequences; no β."""

    is_batch_norm = False

    def __init__(
        self,
        channels: int,
        *,
        gamma: float = 0.1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            channels, eps, momentum, device=device, dtype=dtype,
            on_small_batch=on_small_batch, on_nonfinite=on_nonfinite,
        )  # fmt: skip
        self.gamma = gamma
        _reset_affine(self, gamma, False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Normalise all steps of all sequences.

        Args:
            x: shape (steps, batch, channels).
            mask: bool, shape (steps, batch): which sequences are still running.
        """
        if mask is None and self.context_mask is not None:
            # packed sequences within a `use_mask`, which is not for them
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return super().forward(x.flatten(0, 1), None if mask is None else mask.flatten()).view_as(x)

    def normalised(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
        *,
        default_mask: Tensor | None = None,
    ) -> Normalised:
        """What a forward with these arguments normalises: every step of every sequence is one of a batch.

        Masks other than the argument are not for steps of sequences.
        """
        return Normalised(x.flatten(0, 1), None if mask is None else mask.flatten(), None)

    def reset_parameters(self) -> None:
        """Set the statistics back, and γ to its initial value."""
        self.reset_running_stats()
        _reset_affine(self, getattr(self, "gamma", 1.0), self.bias is not None)


def _reset_affine(norm: StatisticsBase, gamma: float, beta: bool) -> None:
    """Give γ its initial value, and β zeros or no parameter at all."""
    nn.init.constant_(norm.weight, gamma)
    if beta:
        nn.init.zeros_(norm.bias)
    else:
        norm.register_parameter("bias", None)
