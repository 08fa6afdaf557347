"""From tensors to launches: the batch as the kernels see it, and the one place that starts them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import wrap_triton

from normsmith._torch import is_as_stored, is_functional
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


class Launch(NamedTuple):
    """A kernel and all that is the same in every call of it; strings among the arguments name what is not."""

    kernel: Any
    programs: int
    arguments: tuple[Any, ...]
    warps: int
    constants: dict[str, Any]


class Cut(NamedTuple):
    """How batches of one shape lie in memory, and how they are cut."""

    matrix: Matrix
    plan: Plan
    groups: Groups | None
    chained: bool = False
    """Whether a launch may begin while the one before it ends: it waits before it reads what that has written."""

    @property
    def shape(self) -> tuple[int, int]:
        """(groups, channels)."""
        return self.plan.groups, self.matrix.channels

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of a group, all rows, columns, positions."""
        return self.plan.size, self.matrix.rows, self.matrix.columns, self.matrix.positions

    @property
    def width(self) -> int:
        """Of a row of the workspace in which parts are summed."""
        return self.matrix.channels if self.plan.planes else self.matrix.columns

    @property
    def octets(self) -> bool:
        """Whether eight elements of a row are a byte of bits in every tile."""
        return self.plan.unit == 8

    def keeps_bits(self, act: str | None) -> bool:
        """Whether a forward with a residual writes down which elements ReLU lets pass."""
        return act == "relu" and self.octets


class Geometry(NamedTuple):
    """A batch in a layout that the kernels know, and how it is cut."""

    x: Tensor
    cut: Cut
    weights: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """(groups, channels)."""
        return self.cut.shape

    @property
    def counted(self) -> bool:
        """Whether the number of values differs between groups, or is known at run time only."""
        groups = self.cut.groups
        return self.weights is not None or (groups is not None and groups.last > 0)

    def bits(self, residual: Tensor | None, act: str | None) -> Tensor | None:
        """Where to write which elements ReLU lets pass; None where that is not asked, or octets do not fit.

        Without a residual it is cheaper to look again whether (x − mean)·scale + shift is positive.
        """
        if residual is None or not self.cut.keeps_bits(act):
            return None
        return torch.empty(self.x.numel() // 8, dtype=torch.uint8, device=self.x.device)

    def like(self, tensor: Tensor) -> Tensor:
        """The residual or the gradient in the batch's layout."""
        return laid_out_like(self.x, tensor)


def laid_out_like(x: Tensor, tensor: Tensor) -> Tensor:
    """A partner of a batch, its residual or its gradient, with the batch's strides; copied if need be.

    Raises:
        InputError: it lies on another device, whose addresses mean nothing here.
    """
    if tensor.device != x.device:
        raise InputError(
            f"residual: expected the input's device, {x.device}, got {tensor.device}; move it with .to(x.device)"
        )
    if tensor.stride() == x.stride() and is_as_stored(tensor):
        return tensor
    return torch.empty_like(x, dtype=tensor.dtype).copy_(tensor)


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
    chained = chains(x.device) and not is_functional(x)
    cut = Cut(layout, plan(layout, groups, x.element_size(), processors(x.device)), groups, chained)
    return Geometry(x, cut, weights)


@lru_cache
def processors(device: torch.device) -> int:
    """How many multiprocessors the device has."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@lru_cache
def chains(device: torch.device) -> bool:
    """Whether launches on the device may overlap, which Hopper was the first to offer."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def waiting(cut: Cut) -> dict[str, bool]:
    """The constants of a launch that waits for the one before it."""
    return {"CHAINED": True, "launch_pdl": True} if cut.chained else {"CHAINED": False}


def start(kernel: Any, programs: tuple[int, ...], *arguments: Any, warps: int = 4, **constants: Any) -> None:
    """Launch on the current stream of the tensors' device; while a graph is recorded, the launch is a node of it."""
    if is_functional(arguments[0]):
        kernel = wrap_triton(kernel)
    kernel[programs](*arguments, num_warps=warps, **constants)


def run(launches: Iterable[Launch], values: Mapping[str, Any]) -> None:
    """Start launches one after another, with the tensors and numbers that their arguments name."""
    for each in launches:
        arguments = (values[value] if type(value) is str else value for value in each.arguments)
        start(each.kernel, (each.programs,), *arguments, warps=each.warps, **each.constants)


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
    """The vector without gaps in memory, which holds its numbers; copied if need be."""
    if vector is None or (vector.is_contiguous() and is_as_stored(vector)):
        return vector
    return vector.clone(memory_format=torch.contiguous_format)


def dense(*values: Tensor | None) -> tuple[Tensor | None, ...]:
    """`flat` of each value."""
    return tuple(map(flat, values))


def policy(plan: Plan) -> str:
    """How the cache treats what the first sweep reads: kept for the second, where the whole batch fits."""
    return "evict_last" if plan.resident else ""


def entries(cut: Cut) -> tuple[int, int, int]:
    """Splits, width of the workspace, and how many of its columns belong to a channel."""
    return cut.plan.splits, cut.width, cut.width // cut.matrix.channels


def parts_at_once(cut: Cut) -> int:
    """How many parts a merging program reads at once."""
    number = cut.plan.splits * (cut.width // cut.matrix.channels)
    return PARTS[0] if number <= PARTS[0] else PARTS[1]


def merging_programs(cut: Cut) -> int:
    """How many programs merge the parts, each of some channels of one group."""
    return -(-cut.matrix.channels // CHANNELS) * cut.plan.groups


def elementwise(cut: Cut) -> tuple[int, int, int, int]:
    """Programs of an elementwise launch; blocks of columns, tiles of a program, and programs per group and block."""
    plan, tile = cut.plan, cut.plan.elementwise
    blocks = -(-cut.matrix.columns // tile.columns)
    tallest = plan.size
    if cut.groups is not None:
        tallest = max(tallest, cut.groups.last * cut.matrix.rows_per_sample)
    per_group = -(-tallest // (tile.rows * plan.steps))
    return blocks * per_group * plan.groups, blocks, plan.steps, per_group


def unit(cut: Cut) -> int:
    """By how many elements, at most eight, every row of the batch is aligned."""
    return next(unit for unit in (8, 4, 2, 1) if cut.matrix.columns % unit == 0)
