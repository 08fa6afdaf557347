"""Batch norm for recurrences: of one step after the other, each by the statistics of its own batch."""

from __future__ import annotations

from torch import Tensor

from normsmith.ops.call import Call, PreparedSteps
from normsmith.ops.cpu.prepared import Prepared
from normsmith.ops.cpu.steps import Steps
from normsmith.ops.dispatch import choose


def prepare_steps(
    like: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> PreparedSteps | None:
    """Prepare calls for steps whose batches, of shape (batch, channels), are like this one; nothing is differentiated.

    Args:
        like: a batch, which must be plain; only its shape, strides, dtype and device matter.
        weight, bias: γ and β, which stay where they are.
        eps: added to the variances.

    Returns:
        None where the backend of such batches makes no such calls, or a batch has a single value per channel.

    >>> import torch
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> steps, y = prepare_steps(x, None, None, 0.0), torch.empty(2, 1)
    >>> statistics = steps.statistics_of(1)
    >>> steps.forward_into(y, x, statistics[0])
    >>> y.tolist(), steps.moments(statistics).mean.tolist()
    ([[-1.0], [1.0]], [[2.0]])
    """
    if len(like) < 2:
        return None
    call = Call(eps=eps)
    weight, bias = (None if vector is None else vector.detach() for vector in (weight, bias))
    prepared = choose(like, call).prepare(like, weight, bias, None, False, call, None)
    return Steps(prepared, weight, bias) if isinstance(prepared, Prepared) else None
