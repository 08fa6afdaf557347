"""Prepared calls by kinds: by the settings of a call, and by what its tensors are like.

Calls of one kind pass the same checks and are served in the same way, whatever numbers their tensors hold. So the call
that is prepared for one of them serves all. Before each call, one look tells whether it is of that kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from normsmith._torch import alike
from normsmith.ops.call import PreparedCall
from normsmith.ops.prepared import is_plain

Tensors = tuple[
    Tensor,
    Tensor | None,
    Tensor | None,
    Tensor | None,
    Tensor | None,
    Tensor | None,
    Tensor | None,
    Tensor | None,
]
"""The tensors of a call: x, γ, β, residual, running mean, variance and standard deviation, and the counter."""


class _Absent(Tensor):
    """What no tensor of a caller is like, since none is of this class."""


_ABSENT = tuple(torch.empty(0, device="cpu").as_subclass(_Absent) for _ in range(8))
"""What stands in the place of a tensor that there is not."""
_, _NO_WEIGHT, _NO_BIAS, _NO_RESIDUAL, _NO_MEAN, _NO_VARIANCE, _NO_DEVIATION, _NO_COUNTER = _ABSENT
_SAME = torch.empty(1, device="cpu").as_subclass(_Absent)
"""What stands in the place of a residual that is the batch itself: no tensor is given twice."""
_VARIANTS = 4
"""Kinds with the same settings and the same shape of the batch, at most."""


class Kind:
    """What the tensors of a call are like, and the call that was prepared for such tensors; keeps no tensor alive."""

    __slots__ = ("addresses", "call", "differentiated", "is_alike", "is_new")

    def __init__(self, tensors: Tensors) -> None:
        x, *others = [none if each is None else each for each, none in zip(tensors, _ABSENT, strict=True)]
        self.is_alike = alike(x, *(_SAME if each is x else each for each in others))
        """Whether the tensors of another call are like these."""
        self.call: PreparedCall | None = None
        """None as long as nothing is prepared, or where nothing can be."""
        self.differentiated = any(each is not None and each.requires_grad for each in tensors[:4])
        """Whether any of x, γ, β and the residual requires a gradient."""
        self.is_new = True
        """Whether nobody has tried to prepare the call."""
        self.addresses: list[int] | None = None
        """Those that γ, β and the running statistics must have; None where they may be anywhere."""

    def prepared(
        self, tensors: Tensors, prepare: Callable[..., PreparedCall | None], *arguments: Any
    ) -> PreparedCall | None:
        """The call, which `prepare` makes of these arguments if nobody has tried to; None where none can be made."""
        if self.is_new:
            self.call, self.is_new = prepare(*arguments), False
            if self.call is not None and self.call.is_bound:
                self.addresses = _addresses_of(tensors)
        return self.call


class Kinds:
    """The kinds of calls that somebody has met, at most so many; where there are more, they are met anew."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kinds: dict[Any, tuple[Kind, ...]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def find(
        self,
        settings: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        std: Tensor | None,
        batches: Tensor | None,
    ) -> Kind | None:
        """The kind of a call with these settings, which must be hashable, and the shape of the batch among them."""
        kinds = self._kinds.get(settings)
        # asked for its strides, as the look below does, a nested tensor ends the process
        if not kinds or (residual is not None and residual.is_nested):
            return None
        for kind in kinds:
            if kind.is_alike(
                x,
                _NO_WEIGHT if weight is None else weight,
                _NO_BIAS if bias is None else bias,
                _NO_RESIDUAL if residual is None else _SAME if residual is x else residual,
                _NO_MEAN if mean is None else mean,
                _NO_VARIANCE if var is None else var,
                _NO_DEVIATION if std is None else std,
                _NO_COUNTER if batches is None else batches,
            ):
                if kind.addresses is None:
                    return kind
                if kind.addresses == _addresses_of((x, weight, bias, residual, mean, var, std, batches)):
                    return kind
        return None

    def meet(self, settings: Any, tensors: Tensors) -> Kind | None:
        """Take note of a call that is of no known kind; returns its kind if the call shall be prepared now.

        That is so when settings and shape come for the second time. Where other kinds have them too, this one must come
        again before it is prepared: `find` returns it then. Calls that cannot be prepared become no kinds: of tensors
        that are not plain, with a residual that is not laid out as the batch, or with running statistics that require
        gradients.
        """
        if settings not in self._kinds:
            self._make_room(len(self._kinds))
            self._kinds[settings] = ()
            return None
        x, _, _, residual, *running = tensors
        if not all(each is None or is_plain(each) for each in tensors):
            return None
        if residual is not None and not _is_laid_out_as(residual, x):
            return None
        if any(each is not None and each.requires_grad for each in running):  # they are written to
            return None
        self._make_room(len(self))
        kind, known = Kind(tensors), self._kinds.get(settings, ())
        self._kinds[settings] = (kind, *known)[:_VARIANTS]
        return None if known else kind

    def _make_room(self, number: int) -> None:
        """Forget all kinds if there are as many as there may be."""
        if number >= self._most:
            self._kinds.clear()


def _is_laid_out_as(residual: Tensor, x: Tensor) -> bool:
    return (
        residual.dtype is x.dtype
        and residual.shape == x.shape
        and residual.stride() == x.stride()
        and residual.device == x.device
    )


def _addresses_of(tensors: Tensors) -> list[int]:
    """The addresses of γ, β, the running statistics and the counter."""
    return [each.data_ptr() for each in (*tensors[1:3], *tensors[4:]) if each is not None]
