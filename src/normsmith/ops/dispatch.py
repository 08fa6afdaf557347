"""Which backend serves a call: the first row of one table that has no reason not to."""

from __future__ import annotations

import os
from typing import Protocol

from torch import Tensor

from normsmith.errors import BackendError
from normsmith.ops._shapes import Batch, Elements, PerGroup
from normsmith.ops.moments import Groups, Moments
from normsmith.ops.reference import Operands, Reference


class Backend(Protocol):
    """What a row of the table offers: a name, a reason not to serve a call, and the four halves of reference.py."""

    @property
    def name(self) -> str:
        """What NORMSMITH_BACKEND and `explain` call it."""

    def supports(self, x: Tensor) -> str | None:
        """None if it can serve a call with this input, otherwise the reason why not."""

    def moments(self, x: Batch, weights: Elements | None = None, groups: Groups | None = None) -> Moments:
        """Count, mean and M2 of each group and channel."""

    def apply(self, call: Operands) -> Batch:
        """Normalise."""

    def reduce(self, g: Batch, call: Operands) -> tuple[PerGroup, PerGroup]:
        """The two sums of the gradient."""

    def gradient(
        self, g: Batch, call: Operands, offset: PerGroup | None, slope: PerGroup | None
    ) -> tuple[Batch, Batch]:
        """The gradients of x and of the residual."""


BACKENDS: tuple[Backend, ...] = (Reference(),)
"""All backends in the order in which they are tried. To add one, add its file and its row here."""


def choose(x: Tensor) -> Backend:
    """The backend that serves a call.

    The environment variable NORMSMITH_BACKEND forces one by name.

    Raises:
        BackendError: the forced backend does not exist or cannot serve the call.
    """
    forced = os.environ.get("NORMSMITH_BACKEND")
    if forced:
        return _forced(forced, x)
    for backend in BACKENDS:
        if backend.supports(x) is None:
            return backend
    raise BackendError(f"no backend serves this call:\n{explain(x)}")


def explain(x: Tensor) -> str:
    """Name the backend that serves a call with this input, and why each one before it was passed over.

    >>> import torch
    >>> print(explain(torch.zeros(4, 3)))
    reference: taken
    """
    forced = os.environ.get("NORMSMITH_BACKEND")
    lines = []
    for backend in BACKENDS:
        if forced and backend.name != forced:
            lines.append(f"{backend.name}: NORMSMITH_BACKEND asks for {forced}")
            continue
        reason = backend.supports(x)
        lines.append(f"{backend.name}: {reason or 'taken'}")
        if reason is None:
            break
    return "\n".join(lines)


def _forced(name: str, x: Tensor) -> Backend:
    for backend in BACKENDS:
        if backend.name == name:
            reason = backend.supports(x)
            if reason is not None:
                raise BackendError(f"NORMSMITH_BACKEND={name} cannot serve this call: {reason}; unset it")
            return backend
    names = ", ".join(backend.name for backend in BACKENDS)
    raise BackendError(f"NORMSMITH_BACKEND: expected one of {names}; got {name!r}; unset it or correct it")
