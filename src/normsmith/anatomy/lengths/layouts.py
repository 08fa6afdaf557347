"""What the dimensions of a tensor are: samples, steps that have lengths, or anything else, alone or merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Plain:
    """Channels, or whatever else has the same size for every sample."""

    size: int


@dataclass(frozen=True)
class Samples:
    """The samples of the batch."""

    size: int


@dataclass(frozen=True)
class Steps:
    """Positions in time or space: of sample i the first `lengths[i]` are valid. `axis` numbers those of the input."""

    axis: int
    lengths: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Packed:
    """The valid positions of all samples in the order of a packed sequence, whose lengths descend."""

    axis: int
    lengths: tuple[int, ...]
    size: int


DIVIDE = "a network that goes down and up again needs lengths that divide by its total stride"
"""What is said where lengths turn out to differ."""

Atom = Plain | Samples | Steps | Packed
Dim = tuple[Atom, ...]
"""A dimension is the product of its atoms, the slowest first; one of size 1 that is nothing in particular has none."""


class LayoutError(Exception):
    """A shape, or another layout, that a layout does not go together with; the message says why."""


@dataclass(frozen=True)
class Layout:
    """What each dimension of a tensor is.

    >>> batch = Layout.of_shape((4, 3, 10), {0: Samples(4), 2: Steps(0, (10, 7, 5, 2), 10)})
    >>> batch.valid(torch.device("cpu")).sum().item(), batch.permuted((2, 0, 1)).reshaped((40, 3)).dims[0]
    (24, (Steps(axis=0, lengths=(10, 7, 5, 2), size=10), Samples(size=4)))
    """

    dims: tuple[Dim, ...]

    @classmethod
    def of_shape(cls, shape: Sequence[int], atoms: dict[int, Atom] | None = None) -> Layout:
        """The layout of a tensor whose dimensions are plain, but for those that `atoms` names."""
        given = atoms or {}
        return cls(tuple((given[i],) if i in given else plain(size) for i, size in enumerate(shape)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the dimensions."""
        return tuple(prod(atom.size for atom in dim) for dim in self.dims)

    @property
    def steps(self) -> list[Steps]:
        """All atoms that have lengths."""
        return [atom for dim in self.dims for atom in dim if isinstance(atom, Steps)]

    @property
    def is_padded(self) -> bool:
        """Whether some position of some sample is not valid."""
        return any(length < steps.size for steps in self.steps for length in steps.lengths)

    def is_plain(self, dim: int) -> bool:
        """Whether a dimension has neither samples nor steps in it."""
        return all(isinstance(atom, Plain) for atom in self.dims[dim])

    def steps_of(self, dim: int) -> Steps | None:
        """The steps that a dimension consists of; None where it is something else, or more."""
        atoms = self.dims[dim]
        return atoms[0] if len(atoms) == 1 and isinstance(atoms[0], Steps) else None

    def dim_of_samples(self) -> int | None:
        """The dimension of the samples alone; None where they are merged with others, or gone."""
        return next(
            (i for i, dim in enumerate(self.dims) if len(dim) == 1 and isinstance(dim[0], Samples)), None
        )

    def with_dims(self, dims: dict[int, Dim]) -> Layout:
        """The same with some dimensions exchanged."""
        return Layout(tuple(dims.get(i, dim) for i, dim in enumerate(self.dims)))

    def with_plain_sizes(self, shape: Sequence[int]) -> Layout:
        """The same with plain dimensions of other sizes.

        Raises:
            LayoutError: another dimension has another size.
        """
        if len(shape) != len(self.dims):
            raise LayoutError(f"it has {len(self.dims)} dimensions and the result {len(shape)}")
        dims = []
        for i, (dim, size) in enumerate(zip(self.dims, shape, strict=True)):
            if not self.is_plain(i) and self.shape[i] != size:
                raise LayoutError(
                    f"its dimension {i}, of samples or lengths, changes from {self.shape[i]} to {size}"
                )
            dims.append(plain(size) if self.is_plain(i) else dim)
        return Layout(tuple(dims))

    def permuted(self, order: Sequence[int]) -> Layout:
        """The same with its dimensions in another order."""
        return Layout(tuple(self.dims[i] for i in order))

    def reshaped(self, shape: Sequence[int]) -> Layout:
        """The layout of the same numbers, in order, in another shape.

        Raises:
            LayoutError: the shape cuts samples or steps apart, or mixes them up.
        """
        atoms = [atom for dim in self.dims for atom in dim]
        dims: list[Dim] = []
        for size in shape:
            dim, rest = list[Atom](), size
            while rest > 1 or (size == 1 and not dim and atoms and atoms[0].size == 1):
                atom = atoms[0] if atoms else Plain(0)
                if atom.size and rest % atom.size == 0:
                    dim.append(atoms.pop(0))
                    rest //= atom.size
                elif isinstance(atom, Plain) and atom.size % rest == 0 and atom.size:
                    dim.append(Plain(rest))
                    atoms[0] = Plain(atom.size // rest)
                    rest = 1
                else:
                    raise LayoutError(f"the shape {tuple(shape)} cuts up samples or lengths of {self.shape}")
            dims.append(_joined(dim))
        if atoms and dims:  # of size 1, all of them
            dims[-1] = (*dims[-1], *atoms)
        return Layout(tuple(dims))

    def valid(self, device: torch.device, dims: Sequence[int] | None = None) -> Tensor | None:
        """Where the tensor is valid, bool, of its shape but 1 in dimensions of no effect; None: everywhere.

        With `dims` it is what the steps of these dimensions say alone.
        """
        chosen = range(len(self.dims)) if dims is None else dims
        flat = [atom for dim in self.dims for atom in dim]
        where = _positions(self.dims)
        mask = None
        for i in chosen:
            for place in where[i]:
                atom = flat[place]
                if isinstance(atom, Steps) and min(atom.lengths) < atom.size:
                    mine = _spread(flat, place, device)
                    mask = mine if mask is None else mask & mine
        return None if mask is None else self._merged(mask, flat)

    def _merged(self, mask: Tensor, flat: list[Atom]) -> Tensor:
        """A mask with a dimension for each atom, brought to the dimensions of the tensor."""
        sizes = list[int]()
        wanted = list(mask.shape)
        for places in _positions(self.dims):
            matters = any(mask.shape[place] > 1 for place in places)
            for place in places:
                wanted[place] = flat[place].size if matters else 1
            sizes.append(prod(wanted[place] for place in places))
        return mask.expand(wanted).reshape(sizes)


def _joined(atoms: Sequence[Atom]) -> Dim:
    """Atoms with neighbours that are plain made one."""
    joined = list[Atom]()
    for atom in atoms:
        if joined and isinstance(atom, Plain) and isinstance(joined[-1], Plain):
            joined[-1] = Plain(joined[-1].size * atom.size)
        else:
            joined.append(atom)
    return tuple(joined)


def plain(size: int) -> Dim:
    """A plain dimension of a size."""
    return () if size == 1 else (Plain(int.__add__(size, 0)),)


def together(layouts: Sequence[Layout], shape: Sequence[int]) -> Layout:
    """The layout of what is computed, element by element, from tensors that are broadcast to one shape.

    Raises:
        LayoutError: in some dimension two of them have different lengths, or lengths of something else.
    """
    dims = []
    for i, size in enumerate(shape):
        of_all = [_from_the_right(layout, len(shape) - i) for layout in layouts]
        special = [dim for dim in of_all if any(not isinstance(atom, Plain) for atom in dim)]
        for other in special[1:]:
            if other != special[0]:
                raise LayoutError(f"{_described(special[0])} meet {_described(other)}; {DIVIDE}")
        if special and prod(atom.size for atom in special[0]) != size:
            raise LayoutError(f"{_described(special[0])} become a dimension of {size}")
        dims.append(special[0] if special else plain(size))
    return Layout(tuple(dims))


def with_lengths(steps: Steps, lengths: Sequence[int], size: int) -> Steps:
    """Steps after something that changed how many there are.

    Raises:
        LayoutError: nothing is left of a sample, or more than there is.
    """
    if min(lengths) < 1:
        short = min(range(len(lengths)), key=lambda i: lengths[i])
        raise LayoutError(
            f"nothing is left of sample {short}, of length {steps.lengths[short]} here: by itself it is too short"
        )
    if max(lengths) > size:
        raise LayoutError(
            f"a sample by itself would have {max(lengths)} positions, and the padded batch has {size}"
        )
    return replace(steps, lengths=tuple(int(length) for length in lengths), size=int(size))


def _from_the_right(layout: Layout, number: int) -> Dim:
    return layout.dims[-number] if number <= len(layout.dims) else ()


def _described(dim: Dim) -> str:
    """A dimension in a few words."""
    if len(dim) == 1 and isinstance(dim[0], Steps):
        shown = ", ".join(map(str, dim[0].lengths[:6]))
        return f"lengths of {shown}{', …' if len(dim[0].lengths) > 6 else ''}"
    names = {Plain: "channels", Samples: "samples", Steps: "lengths", Packed: "packed positions"}
    return " times ".join(names[type(atom)] for atom in dim)


def _positions(dims: Sequence[Dim]) -> list[range]:
    """For each dimension the numbers of its atoms, counted through all dimensions."""
    ranges, start = [], 0
    for dim in dims:
        ranges.append(range(start, start + len(dim)))
        start += len(dim)
    return ranges


def _spread(flat: list[Atom], place: int, device: torch.device) -> Tensor:
    """Where the steps at a place are valid: a dimension for each atom, 1 for all but the samples and these steps."""
    steps = flat[place]
    assert isinstance(steps, Steps)
    samples = next((i for i, atom in enumerate(flat) if isinstance(atom, Samples)), None)
    if samples is None:
        raise LayoutError("the samples that its lengths belong to are gone")
    mask = within(steps.lengths, steps.size, device)
    shape = [1] * len(flat)
    shape[samples], shape[place] = mask.shape
    return (mask if samples < place else mask.T).reshape(shape)


@lru_cache(maxsize=256)
def within(lengths: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    """A mask of shape (samples, size) that is True at the first positions of each sample."""
    with torch.inference_mode(False):
        ends = torch.tensor(lengths, device=device).unsqueeze(1)
        return torch.arange(size, device=device) < ends
