"""From tensors to launches: the batch as the kernels see it, and the one place that starts them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import wrap_triton

from normsmith._torch import is_functional
from normsmith.errors import InputError
from normsmith.ops.activation import ACTIVATIONS, Activation
from normsmith.ops.gpu.plan import Matrix, Plan, matrix, plan
from normsmith.ops.moments import Groups
from normsmith.ops.resolve import Resolved

PARTS, CHANNELS = (16, 128), 8
"""How many parts, of how many channels, a merging program reads at once."""


class Saved(NamedTuple):
    """What a forward leaves for its backward: what normalised, its coefficients, W, and mask and weights as one tensor.

    `bits` says where ReLU let an element pass, if a residual was added: backward then needs no residual.
    """

    resolved: Resolved
    scale: Tensor
    shift: Tensor
    count: Tensor | float  # type: ignore[assignment]  # tuples have a method of this name
    weights: Tensor | None
    bits: Tensor | None = None


class Geometry(NamedTuple):
    """A batch in a layout that the kernels know, and how it is cut."""

    x: Tensor
    matrix: Matrix
    plan: Plan
    groups: Groups | None
    weights: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """(groups, channels)."""
        return self.plan.groups, self.matrix.channels

    @property
    def counted(self) -> bool:
        """Whether the number of values differs between groups, or is known at run time only."""
        return self.weights is not None or (self.groups is not None and self.groups.last > 0)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of a group, all rows, columns, positions."""
        return self.plan.size, self.matrix.rows, self.matrix.columns, self.matrix.positions

    @property
    def octets(self) -> bool:
        """Whether eight elements of a row are a byte of bits in every tile."""
        return self.plan.unit == 8

    def bits(self, residual: Tensor | None, act: str | None) -> Tensor | None:
        """Where to write which elements ReLU lets pass; None where that is not asked, or octets do not fit.

        Without a residual it is cheaper to look again whether (x − mean)·scale + shift is positive.
        """
        if residual is None or act != "relu" or not self.octets:
            return None
        return torch.empty(self.x.numel() // 8, dtype=torch.uint8, device=self.x.device)

    def like(self, tensor: Tensor) -> Tensor:
        """The tensor in the batch's layout.

        Raises:
            InputError: it lies on another device, whose addresses mean nothing here.
        """
        if tensor.device != self.x.device:
            raise InputError(
                f"residual: expected the input's device, {self.x.device}, got {tensor.device}; "
                "move it with .to(x.device)"
            )
        if tensor.stride() == self.x.stride():
            return tensor
        return torch.empty_like(self.x, dtype=tensor.dtype).copy_(tensor)


def weighed(x: Tensor, valid: Tensor | None, weights: Tensor | None) -> Tensor | None:
    """Mask and weights as one tensor of shape (batch, 1, *space): −1 where not valid."""
    if valid is not None:
        weights = torch.where(valid, 1.0 if weights is None else weights, -1.0)
    if weights is None:
        return None
    return weights.to(torch.float32).expand(x.shape[0], 1, *x.shape[2:]).contiguous()


def geometry(x: Tensor, weights: Tensor | None, groups: Groups | None) -> Geometry:
    """The batch in a layout that the kernels know, and cut."""
    layout = matrix(x)
    if layout is None:
        x = x.contiguous()
        layout = matrix(x)
        assert layout is not None
    return Geometry(x, layout, plan(layout, groups, x.element_size(), processors(x.device)), groups, weights)


@lru_cache
def processors(device: torch.device) -> int:
    """How many multiprocessors the device has."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def start(kernel: Any, programs: tuple[int, ...], *arguments: Any, warps: int = 4, **constants: Any) -> None:
    """Launch on the current stream of the tensors' device; while a graph is recorded, the launch is a node of it."""
    if is_functional(arguments[0]):
        kernel = wrap_triton(kernel)
    kernel[programs](*arguments, num_warps=warps, **constants)


def name_of(activation: Activation | None) -> str | None:
    """The name of an activation in the kernels, or None where they do not know it."""
    if activation is None:
        return "none"
    for name, known in ACTIVATIONS.items():
        if known is activation:
            return name
    return None


def check_device(x: Tensor, *vectors: Tensor | None) -> None:
    """Check that vectors are on the device of the batch.

    Raises:
        InputError: one lies on another device, whose addresses mean nothing here.
    """
    for vector in vectors:
        if vector is not None and vector.device != x.device:
            raise InputError(
                f"batch norm: expected weight, bias and running statistics on the input's device, {x.device}, "
                f"got one on {vector.device}; move the layer or the input, e.g. with .to(x.device)"
            )


def flat(vector: Tensor | None) -> Tensor | None:
    """The vector without gaps in memory, copied if need be."""
    return vector if vector is None or vector.is_contiguous() else vector.contiguous()


def dense(*values: Tensor | None) -> tuple[Tensor | None, ...]:
    """`flat` of each value."""
    return tuple(map(flat, values))


def policy(plan: Plan) -> str:
    """How the cache treats what the first sweep reads: kept for the second, where the whole batch fits."""
    return "evict_last" if plan.resident else ""


def entries(batch: Geometry, width: int) -> tuple[int, int, int]:
    """Splits, width of the workspace, and how many of its columns belong to a channel."""
    return batch.plan.splits, width, width // batch.matrix.channels


def parts_at_once(batch: Geometry, width: int) -> int:
    """How many parts a merging program reads at once."""
    number = batch.plan.splits * (width // batch.matrix.channels)
    return PARTS[0] if number <= PARTS[0] else PARTS[1]


def merging_programs(batch: Geometry) -> tuple[int]:
    """How many programs merge the parts, each of some channels of one group."""
    return (-(-batch.matrix.channels // CHANNELS) * batch.plan.groups,)


def elementwise(batch: Geometry) -> tuple[int, int, int, int]:
    """Programs of an elementwise launch; blocks of columns, tiles of a program, and programs per group and block."""
    cut, tile = batch.plan, batch.plan.elementwise
    blocks = -(-batch.matrix.columns // tile.columns)
    tallest = cut.size
    if batch.groups is not None:
        tallest = max(tallest, batch.groups.last * batch.matrix.rows_per_sample)
    per_group = -(-tallest // (tile.rows * cut.steps))
    return blocks * per_group * cut.groups, blocks, cut.steps, per_group


def unit(batch: Geometry) -> int:
    """By how many elements, at most eight, every row of the batch is aligned."""
    return next(unit for unit in (8, 4, 2, 1) if batch.matrix.columns % unit == 0)
