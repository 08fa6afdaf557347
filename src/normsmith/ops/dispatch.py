"""Which backend serves a call: the first row of one table that has no reason not to."""

from __future__ import annotations

import os
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from normsmith._choices import did_you_mean
from normsmith.errors import BackendError
from normsmith.ops._check import make_call
from normsmith.ops._shapes import Batch
from normsmith.ops.aten import Aten
from normsmith.ops.call import Call, Forward, PreparedCall, Update
from normsmith.ops.cpu.backend import Numba
from normsmith.ops.gpu.backend import Triton
from normsmith.ops.reference import Reference
from normsmith.ops.resolve import Gradients, Running


@runtime_checkable
class Backend(Protocol):
    """What a row of the table offers. `Reference` is made of four functions, which a new row may override."""

    @property
    def name(self) -> str:
        """What NORMSMITH_BACKEND and `explain` call it."""

    @property
    def differentiates(self) -> bool:
        """Whether autograd should run through `forward`; otherwise `backward` is its closed form."""

    def supports(self, x: Tensor, call: Call) -> str | None:
        """None if the backend can serve the call, otherwise the reason why it cannot."""

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
        """Normalise a batch of any floating dtype.

        Running statistics are only read, unless the backend carries out the `update` itself. It then returns no
        moments, and the caller updates nothing.
        """

    def backward(
        self, g: Batch, x: Batch, residual: Batch | None, kept: Any, call: Call, wants_x: bool
    ) -> tuple[Batch | None, Batch | None, Gradients]:
        """The gradients of x, of the residual, and of γ and β."""

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
        """Decide once what is the same in many calls on batches like `x`; None where nothing is gained by it.

        `added` says whether they have a residual.
        """


BACKENDS: tuple[Backend, ...] = (Numba(), Triton(), Aten(), Reference())
"""All backends in the order in which they are tried. To add one, add its file and its row here."""


def choose(x: Tensor, call: Call) -> Backend:
    """The backend that serves a call: the first of the table, or of those rows that NORMSMITH_BACKEND names.

    Raises:
        BackendError: NORMSMITH_BACKEND names a row that does not exist, or none that can serve the call.
    """
    reasons = []
    for backend in _rows():
        reason = backend.supports(x, call)
        if reason is None:
            return backend
        reasons.append(reason)
    forced = os.environ.get("NORMSMITH_BACKEND")
    if forced:
        raise BackendError(
            f"NORMSMITH_BACKEND={forced} cannot serve this call: {'; '.join(reasons)}; unset it"
        )
    raise BackendError(f"no backend serves a tensor on {x.device.type}: {explain(x)}")


def rows_from(name: str) -> str:
    """That row of the table and those after it, as NORMSMITH_BACKEND takes them: the row where it can, else the next.

    Raises:
        BackendError: there is no such row.

    >>> rows_from("aten")
    'aten,reference'
    """
    names = [backend.name for backend in BACKENDS]
    if name not in names:
        raise BackendError(
            f"expected a backend among {', '.join(names)}, got {name!r}{did_you_mean(name, names)}"
        )
    return ",".join(names[names.index(name) :])


def explain(x: Tensor, **options: Any) -> str:
    """Name the backend that serves a call, and why each one before it was passed over.

    The answer holds where it is asked: a compiled graph is served by what is chosen while it is traced.

    Args:
        x: the input; only its shape, dtype, device and type matter.
        options: of `batch_norm`: normalize_with, eps, renorm, mask, sample_weight, ghost_batch_size, activation.

    Raises:
        InputError: `batch_norm` would refuse the arguments.

    >>> import torch
    >>> print(explain(torch.zeros(0, 3), ghost_batch_size=2))
    numba: the batch is empty
    triton: serves NVIDIA GPUs, got a tensor on cpu
    aten: needs 2 values per channel, got 0
    reference: taken
    """
    call = make_call(x, **options)
    allowed, lines = _rows(), []
    for backend in BACKENDS:
        if backend not in allowed:
            lines.append(f"{backend.name}: NORMSMITH_BACKEND asks for {os.environ['NORMSMITH_BACKEND']}")
            continue
        reason = backend.supports(x, call)
        lines.append(f"{backend.name}: {reason or 'taken'}")
        if reason is None:
            break
    return "\n".join(lines)


def _rows() -> tuple[Backend, ...]:
    """The rows of the table, in its order: all of them, or those that the environment names.

    Raises:
        BackendError: it names one that does not exist.
    """
    forced = os.environ.get("NORMSMITH_BACKEND")
    if not forced:
        return BACKENDS
    named, names = forced.split(","), [backend.name for backend in BACKENDS]
    for name in named:
        if name not in names:
            raise BackendError(
                f"NORMSMITH_BACKEND: expected one of {', '.join(names)}, or several with commas between; "
                f"got {name!r}{did_you_mean(name, names)}; unset it or correct it"
            )
    return tuple(backend for backend in BACKENDS if backend.name in named)
