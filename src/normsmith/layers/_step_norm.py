"""Batch norm whose statistics are kept apart for every time step, as recurrent networks need it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normsmith.errors import InputError
from normsmith.layers._recompute import Seen, is_recomputing, recall, remember, will_be_recomputed
from normsmith.layers._statistics import StatisticsBase
from normsmith.layers.batch_norm import BatchNorm1d
from normsmith.ops import Moments, Running, batch_norm, commit, concatenate, merge, snapshot


@dataclass
class Course:
    """One forward through the steps: what normalises where the batch cannot, and the moments found so far."""

    mean: Tensor
    """Running means of the steps of this forward, (steps, channels): a copy."""
    var: Tensor
    by_batch: bool
    update: bool
    first: int
    found: list[Moments] = field(default_factory=list)


class StepNorm(StatisticsBase):
    """Batch norm of one product or state of a recurrent cell: statistics per step, γ (and β) shared by all steps.

    Row t of `running_mean` and `running_var`, of shape (max_steps, channels), belongs to step t; the last row to
    all steps from there on, which together make one update of it per forward. `num_batches_tracked`, of shape
    (max_steps,), counts the updates of each row. A step whose row has had none yet goes by the nearest earlier row
    that has: sequences may be longer in evaluation than they ever were in training.
    """

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
        device: Any = None,
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

    def start(self, steps: int, batch: int, first: int) -> Course:
        """Begin a forward of so many steps.

        Raises:
            InputError: the batch is a single sequence, which has no statistics per step.
        """
        policy = self.policy
        if policy.normalize_with == "batch" and batch == 1 and self.on_small_batch == "error":
            raise InputError(
                "statistics per step: expected more than one sequence in training, got a batch of one; use larger "
                'batches (e.g. drop_last=True), normalize="input", or on_small_batch="running"'
            )
        seen = went_by(self, lambda: Seen(self._rows(steps, first), None, None, *policy))
        assert seen.running is not None  # went_by looks or recalls what was looked at
        by_batch = seen.normalize_with == "batch" and batch > 1
        return Course(
            mean=seen.running.mean,
            var=seen.running.var,
            by_batch=by_batch,
            update=by_batch and seen.update_running,
            first=first,
        )

    def forward(  # type: ignore[override]
        self, x: Tensor, course: Course, step: int = 0, alive: Tensor | None = None
    ) -> Tensor:
        """Normalise some steps at once.

        Args:
            x: shape (steps, batch, channels).
            course: this forward's, from `start`.
            step: which of the course's steps is x's first.
            alive: bool, shape (steps, batch): which sequences are still running.
        """
        steps = slice(step, step + len(x))
        mean, var = course.mean[steps], course.var[steps]
        if not course.by_batch:
            return self._by_running(x, mean, var)
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
            collected=course.found,
        ).view_as(x)
        enough = course.found[-1].enough
        if not single and isinstance(enough, Tensor) and alive is not None:
            fallback = torch.where(alive.unsqueeze(2), self._by_running(x, mean, var), 0.0)
            y = torch.where(enough.unsqueeze(2), y, fallback)
        return y

    def finish(self, course: Course) -> None:
        """Update the running statistics by what the course has found."""
        if not course.update:
            return
        moments = concatenate(course.found)
        found = torch.stack([torch.as_tensor(value).expand_as(moments.mean) for value in moments])
        # one row for each step from the very first; rows of count 0 are left alone
        found = F.pad(found, (0, 0, course.first, 0))
        if self._collected is not None:
            self._collected.append(Moments(*found))
        else:
            self._commit(found)

    def commit_collected(self, collected: list[Moments]) -> None:
        """One update from the moments of several forwards: merged step by step."""
        if not collected:
            return
        steps = max(len(part.mean) for part in collected)
        parts = [torch.stack([torch.as_tensor(value) for value in part]) for part in collected]
        every = torch.stack([F.pad(part, (0, 0, 0, steps - part.shape[1])) for part in parts], dim=1)
        merged = merge(Moments(*every.flatten(2)))
        self._commit(torch.stack([torch.as_tensor(value).view(steps, -1) for value in merged]))

    def reset_parameters(self) -> None:
        """Set the statistics back, γ to its initial value, and β to zero."""
        self.reset_running_stats()
        _reset_affine(self, getattr(self, "gamma", 1.0), self.bias is not None)

    def extra_repr(self) -> str:
        """Channels, steps, and the settings that every norm has."""
        return f"{super().extra_repr()}, max_steps={self.max_steps}, gamma={self.gamma}"

    def _rows(self, steps: int, first: int) -> Running:
        """Copies of what is known of each step; an update must not change what a backward goes by."""
        mean, var = snapshot(self.running_mean), snapshot(self.running_var)
        tracked = snapshot(self.num_batches_tracked)
        own = torch.arange(self.max_steps, device=mean.device)
        updated = torch.where(tracked > 0, own, -1).cummax(0).values
        of_row = torch.where(updated < 0, own, updated)
        rows = of_row[torch.arange(first, first + steps, device=mean.device).clamp(max=self.max_steps - 1)]
        return Running(mean[rows], var[rows])

    def _by_running(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        steps, batch, channels = x.shape
        y = batch_norm(
            x.transpose(0, 1).reshape(batch, steps * channels),  # each step has channels of its own
            mean.flatten(),
            var.flatten(),
            self.weight.repeat(steps),
            None if self.bias is None else self.bias.repeat(steps),
            normalize_with="running",
            eps=self.epsilon,
        )
        return y.view(batch, steps, channels).transpose(0, 1)

    @torch.no_grad()
    def _commit(self, found: Tensor) -> None:
        """One update of every row from moments of all steps, stacked: shape (5, steps, channels)."""
        last = self.max_steps - 1
        # early steps have a row each: to the op, channels of their own; the late ones are ghost batches of one row
        early, late = found[:, :last].flatten(1).unsqueeze(1), found[:, last:]
        for rows, part in ((slice(early.shape[2] // self.num_features), early), (slice(last, None), late)):
            if part.numel():
                counter = self.num_batches_tracked[rows].repeat_interleave(self.num_features)
                commit(
                    Running(self.running_mean[rows].view(-1), self.running_var[rows].view(-1), None, counter),
                    Moments(*part),
                    momentum=self.momentum,
                    eps=self.epsilon,
                    on_nonfinite=self.on_nonfinite,
                )
        moments = Moments(*found)
        taken = torch.as_tensor(moments.enough)
        if self.on_nonfinite == "skip":
            taken = taken & (moments.unbiased_variance <= torch.finfo(self.running_var.dtype).max)
        taken = taken.any(1)
        self.num_batches_tracked[: len(taken)][:last] += taken[:last]
        self.num_batches_tracked[last] += taken[last:].any()


class SequenceNorm(BatchNorm1d):
    """Batch norm of input products over all valid steps of all sequences; no β."""

    def __init__(self, channels: int, *, gamma: float = 0.1, **options: Any) -> None:
        super().__init__(channels, **options)
        self.gamma = gamma
        _reset_affine(self, gamma, False)

    def forward(self, x: Tensor, alive: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Normalise all steps, (steps, batch, channels), of the sequences that are still running there."""
        if alive is None and self._context_mask is not None:
            # packed sequences within a `use_mask`, which is not for them
            alive = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return super().forward(x.flatten(0, 1), None if alive is None else alive.flatten()).view_as(x)

    def reset_parameters(self) -> None:
        """Set the statistics back, and γ to its initial value."""
        self.reset_running_stats()
        _reset_affine(self, getattr(self, "gamma", 1.0), self.bias is not None)


def went_by(layer: nn.Module, look: Callable[[], Seen]) -> Seen:
    """What a forward goes by: what there is to see, or, where it is recomputed, what its original saw."""
    if torch.compiler.is_compiling():
        return look()
    again = is_recomputing()
    seen = recall(layer) if again else None
    if seen is None:
        seen = look()
        seen = seen._replace(update_running=seen.update_running and not again)
        if will_be_recomputed():
            remember(layer, seen._replace(update_running=False))
    return seen


def _reset_affine(norm: StatisticsBase, gamma: float, beta: bool) -> None:
    nn.init.constant_(norm.weight, gamma)
    if beta:
        nn.init.zeros_(norm.bias)
    else:
        norm.register_parameter("bias", None)
