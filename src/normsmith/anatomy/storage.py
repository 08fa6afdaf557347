"""Where in memory a tensor's elements lie, so that tensors which share some are recognised."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from normsmith._torch import without_torch_functions
from normsmith.anatomy.memory import Part


@dataclass(frozen=True)
class Strided(Part):
    """The elements of a tensor in its storage: where they begin, and how many steps of which length follow."""

    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    itemsize: int

    def meets(self, other: Part) -> bool:
        """Whether both have some element; by the elements themselves, as interleaved slices have none."""
        if not isinstance(other, Strided) or self.itemsize != other.itemsize:
            return True
        begin, end = min(self.offset, other.offset), max(self._end, other._end)
        if 0 in (*self.size, *other.size) or self._end <= other.offset or other._end <= self.offset:
            return False
        taken = np.zeros(end - begin, dtype=bool)
        self._among(taken, begin)[...] = True
        return bool(other._among(taken, begin).any())

    @property
    def _end(self) -> int:
        return self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True)) + 1

    def _among(self, elements: np.ndarray, begin: int) -> np.ndarray:
        return as_strided(elements[self.offset - begin :], self.size, self.stride)


def placed(tensor: Tensor) -> tuple[Hashable, Part]:
    """The block of memory in which a tensor lies, and its elements there.

    Tensors without strides or storage (sparse ones, those of some other layouts) are blocks of their own.

    >>> x = torch.zeros(4, 2)
    >>> placed(x) == placed(x.detach()), placed(x)[0] == placed(x[1:])[0], placed(x)[1].meets(placed(x[1:])[1])
    (True, True, True)
    """
    with without_torch_functions():
        try:
            address = tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0
        except (NotImplementedError, RuntimeError):
            address = 0
        if not address:
            return ("itself", id(tensor)), Part()
        offset = int(tensor.storage_offset())
        part = Strided(offset, tuple(tensor.shape), tensor.stride(), tensor.element_size())
        return (str(tensor.device), address), part
