"""A checked call of batch norm, and what its forward leaves for its backward."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from normsmith._torch import is_as_stored, is_traced_or_transformed
from normsmith.ops._shapes import Batch, Elements
from normsmith.ops.activation import Activation
from normsmith.ops.moments import Groups, Moments
from normsmith.ops.resolve import Renorm, Resolved
from normsmith.ops.sync import Sync


class Call(NamedTuple):
    """How to normalise: every argument but the running statistics and the tensors that may need gradients.

    `valid` (bool) and `weights` (mask × sample weight) have the shape (batch, 1, *space), broadcastable. `sync`
    merges statistics over ranks; ranks with ghost batches normalise alone.
    """

    by_batch: bool = True
    eps: float = 1e-5
    renorm: Renorm | None = None
    valid: Elements | None = None
    weights: Elements | None = None
    groups: Groups | None = None
    activation: Activation | None = None
    sync: Sync | None = None


class Kept(NamedTuple):
    """What a backward needs beside the inputs: small tensors, and never a running buffer.

    `scale` and `shift` are read only by the backend that made them; None where it needs none.
    """

    resolved: Resolved
    scale: Tensor | None
    shift: Tensor | None
    count: Tensor | float  # type: ignore[assignment]  # tuples have a method of this name


class Update(NamedTuple):
    """How running statistics move towards a batch, for backends that do within their forward what `commit` does."""

    momentum: float
    skip_nonfinite: bool


class Keeps(Protocol):
    """What a backend's forward leaves for its backward; other code reads only `resolved` of it."""

    @property
    def resolved(self) -> Resolved:
        """What normalised each group and channel."""


class Forward(NamedTuple):
    """The output, what is kept for the backward, and the batch's moments.

    There are no moments where running statistics normalised, or where the backend has updated them itself.
    """

    y: Batch
    kept: Keeps
    moments: Moments | None


Buffers = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Running mean, variance and standard deviation and the counter of updates, as in `Running`."""


@runtime_checkable
class PreparedCall(Protocol):
    """A call that a backend has prepared, for batches of one shape and vectors that are like those it was given."""

    @property
    def call(self) -> Call:
        """What was prepared; the bounds of its renorm are those of the first call."""

    @property
    def is_bound(self) -> bool:
        """Whether γ, β and the running statistics must be where they were when it was prepared."""

    def forward(
        self,
        x: Batch,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Batch | None,
        running: Buffers | None,
        renorm: Renorm | None,
        keep: bool,
    ) -> tuple[Batch, Tensor, Tensor | None]:
        """The output, and two things for the backward if it will `keep` them; running statistics are updated."""

    def backward(
        self, g: Batch, x: Batch, statistics: Tensor, bits: Tensor | None, wants_x: bool
    ) -> tuple[Batch | None, Batch | None, Tensor, Tensor]:
        """The gradients of x, of the residual, and of γ and β; gradient and batch are as `fitted` returns them."""

    def fits(self, g: Tensor, x: Tensor) -> bool:
        """Whether a gradient and a batch are known to be what `fitted` returns as it is."""

    def fitted(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and batch with the strides and the dtype of the forward's batch, copied if need be."""

    def resolved(self, statistics: Tensor) -> Resolved:
        """What normalised, of what a forward kept."""


@runtime_checkable
class PreparedSteps(Protocol):
    """A prepared call for batches that come one by one and lie side by side, as the steps of a recurrence do.

    It normalises by the statistics of each batch, and writes where it is told.
    """

    def statistics_of(self, steps: int) -> Tensor:
        """Memory for the statistics of so many batches, of which each takes what one index of it gives."""

    def forward_into(self, y: Batch, x: Batch, statistics: Tensor) -> None:
        """Write the output of a batch, and its statistics."""

    def backward_into(self, dx: Batch, affine: Tensor, g: Batch, x: Batch, statistics: Tensor) -> None:
        """Write the gradient of a batch, and those of γ and β, of shape (2, channels)."""

    def moments(self, statistics: Tensor) -> Moments:
        """The moments of all batches, from the statistics of all."""


def eager() -> bool:
    """Whether torch runs operation by operation: no compiler, tracer, functorch transform or forward-mode autograd."""
    return not (torch.compiler.is_compiling() or is_traced_or_transformed())


def computing_dtype(x: Tensor) -> torch.dtype:
    """The dtype of elementwise work: float32 at least."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def as_before(x: Tensor, like: Tensor) -> Tensor:
    """A saved batch with the strides and the dtype of its forward: a hook on saved tensors may bring back others."""
    if x.stride() == like.stride() and x.dtype is like.dtype and is_as_stored(x):
        return x
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=x.device).copy_(x)


def promoted(x: Tensor, residual: Tensor | None, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Batch and residual in the dtype of the work, with zeros where not valid: padding may hold anything."""
    dtype = computing_dtype(x)
    if valid is not None:
        x = torch.where(valid, x, 0.0)
        residual = None if residual is None else torch.where(valid, residual, 0.0)
    if x.dtype != dtype:
        x = x.to(dtype)
    if residual is not None and residual.dtype != dtype:
        residual = residual.to(dtype)
    return x, residual
