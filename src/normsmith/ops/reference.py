"""The reference backend: plain torch, any device, float32 and float64. The oracle of every other backend.

Four functions touch whole batches: `moments` and `apply` make the forward, `reduce` and `gradient` the backward.
Between the two of a pair, ranks exchange their sums, and `resolve` or `gradients` decides on small tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normsmith.ops._shapes import Batch, Elements, PerGroup
from normsmith.ops.activation import Activation
from normsmith.ops.call import Call, Forward, Kept, PreparedCall, Update, promoted
from normsmith.ops.moments import Groups, moments, spread, total
from normsmith.ops.resolve import (
    Gradients,
    Resolved,
    Running,
    coefficients,
    gradients,
    resolve,
    resolve_again,
)


class Operands(NamedTuple):
    """A batch and what is applied to it: y = act((x − mean)·scale + shift + residual), 0 where not valid.

    `x` and `residual` have the shape (batch, channels, *space) and hold finite values where not valid;
    `mean`, `scale` and `shift` are (groups, channels); `valid` (bool) and `weights` (how much an element counts in the
    moments) are (batch, 1, *space), broadcastable.
    """

    x: Batch
    mean: PerGroup
    scale: PerGroup
    shift: PerGroup
    residual: Batch | None = None
    activation: Activation | None = None
    valid: Elements | None = None
    weights: Elements | None = None
    groups: Groups | None = None


def apply(call: Operands) -> Batch:
    """Normalise a batch: y = act((x − mean)·scale + shift + residual), 0 where not valid."""
    y = _pre_activation(call)
    if call.activation is not None:
        y = call.activation.forward(y)
    return y if call.valid is None else torch.where(call.valid, y, 0.0)


def reduce(g: Batch, call: Operands) -> tuple[PerGroup, PerGroup]:
    """The two sums of the gradient: Σg and Σg·(x − mean), where g is the gradient before the activation."""
    g = _pre_gradient(g, call)
    return total(g, call.groups), total(g * _centred(call), call.groups)


def gradient(
    g: Batch, call: Operands, offset: PerGroup | None, slope: PerGroup | None
) -> tuple[Batch, Batch]:
    """The gradients of x and of the residual: dx = scale·g − w·(offset + slope·(x − mean)), and g.

    Offset and slope are None where no group was normalised by its own moments.
    """
    g = _pre_gradient(g, call)
    dx = g * _laid_out(call.scale, call)
    if offset is not None and slope is not None:
        through = torch.addcmul(_laid_out(offset, call), _centred(call), _laid_out(slope, call))
        dx = dx - (through if call.weights is None else through * call.weights)
    return dx, g


def _laid_out(values: PerGroup, call: Operands) -> Tensor:
    return spread(values, call.x, call.groups)


def _centred(call: Operands) -> Tensor:
    return call.x - _laid_out(call.mean, call)


def _pre_activation(call: Operands) -> Tensor:
    y = torch.addcmul(_laid_out(call.shift, call), _centred(call), _laid_out(call.scale, call))
    return y if call.residual is None else y + call.residual


def _pre_gradient(g: Tensor, call: Operands) -> Tensor:
    if call.valid is not None:
        g = torch.where(call.valid, g, 0.0)
    return g if call.activation is None else call.activation.backward(g, _pre_activation(call))


class Reference:
    """The row `reference` of the dispatch table: serves every call."""

    name = "reference"
    differentiates = False
    moments = staticmethod(moments)
    apply = staticmethod(apply)
    reduce = staticmethod(reduce)
    gradient = staticmethod(gradient)

    def supports(self, x: Tensor, call: Call) -> str | None:
        """Always None: this row serves every call on every device."""
        return None

    def forward(
        self,
        x: Batch,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Batch | None,
        running: Running | None,
        call: Call,
        update: Update | None = None,
    ) -> Forward:
        """Run moments → merge across ranks → resolve → apply; autograd can differentiate it as it stands."""
        dtype = x.dtype
        x, residual = promoted(x, residual, call.valid)
        measured = self.moments(x, call.weights, call.groups) if call.by_batch else None
        if measured is not None and call.sync is not None:
            measured = call.sync.merge(measured)
        resolved = resolve(measured, running, call.eps, call.renorm)
        scale, shift = coefficients(resolved, weight, bias)
        kept = Kept(resolved, scale, shift, measured.count if measured is not None else 1.0)
        y = self.apply(_operands(x, residual, kept, call))
        return Forward(y if y.dtype == dtype else y.to(dtype), kept, measured)

    def backward(
        self, g: Batch, x: Batch, residual: Batch | None, kept: Kept, call: Call, wants_x: bool
    ) -> tuple[Batch | None, Batch | None, Gradients]:
        """Run reduce → sum across ranks → gradient; returns the gradients of x, of the residual, and of γ and β."""
        x, residual = promoted(x, residual, call.valid)
        g = g.to(x.dtype)
        operands = _operands(x, residual, kept, call)
        exchange = call.sync.sum if call.sync is not None and wants_x else None
        affine = gradients(kept.resolved, operands.scale, kept.count, *self.reduce(g, operands), exchange)
        if not wants_x:
            return None, None, affine
        return *self.gradient(g, operands, affine.offset, affine.slope), affine

    def prepare(
        self,
        x: Batch,
        weight: Tensor | None,
        bias: Tensor | None,
        running: Running | None,
        added: bool,
        call: Call,
        update: Update | None,
    ) -> PreparedCall | None:
        """Nothing is gained by it here."""
        return None

    def repeat(
        self,
        x: Batch,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Batch | None,
        resolved: Resolved,
        call: Call,
    ) -> Batch:
        """Run the forward again with the decisions of an earlier one, so that gradients can be differentiated."""
        batch, added = promoted(x, residual, call.valid)
        if resolved.by_batch is not False:
            measured = self.moments(batch, call.weights, call.groups)
            measured = measured if call.sync is None else call.sync.merge(measured)
            resolved = resolve_again(measured, call.eps, resolved)
        kept = Kept(resolved, *coefficients(resolved, weight, bias), 1.0)
        return self.apply(_operands(batch, added, kept, call)).to(x.dtype)


def _operands(x: Tensor, residual: Tensor | None, kept: Kept, call: Call) -> Operands:
    """Put a batch and the statistics that normalise it together."""
    assert kept.scale is not None  # forward has made both
    assert kept.shift is not None
    return Operands(
        x,
        kept.resolved.mean,
        kept.scale,
        kept.shift,
        residual,
        call.activation,
        call.valid,
        call.weights,
        call.groups,
    )
