"""Several processes: exchanges between the ranks of a group."""

from __future__ import annotations

from datetime import timedelta

import torch
from torch import Tensor

from normsmith._torch.compiler import mark_constant


def timeout_of(group: torch.distributed.ProcessGroup) -> timedelta:
    """How long an exchange of a process group on the CPU waits for other ranks.

    Needs `ProcessGroup._get_backend` and `options._timeout` of the backend. Without them, take the default of
    `torch.distributed` or let users pass a timeout.
    """
    return group._get_backend(torch.device("cpu")).options._timeout


def differentiable_sum(tensor: Tensor, group: torch.distributed.ProcessGroup) -> Tensor:
    """The sum of a tensor over all ranks of a group, as an operation that autograd and the compiler know.

    Needs `torch.distributed._functional_collectives`, which is imported here alone, because it imports much. Where its
    sum has no gradient, as in torch 2.6, `torch.distributed.nn.functional` has one that does not compile.
    """
    if torch.is_grad_enabled() and tensor.requires_grad and not _has_gradient_of_sums():
        from torch.distributed.nn.functional import all_reduce

        return all_reduce(tensor, group=group)  # type: ignore[no-untyped-call, no-any-return]
    from torch.distributed import _functional_collectives as functional

    total: Tensor = functional.all_reduce(tensor, "sum", group)
    return functional.wait_tensor(total)  # type: ignore[no-untyped-call, no-any-return]


def _has_gradient_of_sums() -> bool:
    from torch.distributed import _functional_collectives  # noqa: F401  registers the gradients

    return torch._C._dispatch_has_kernel_for_dispatch_key("_c10d_functional::all_reduce", "Autograd")


mark_constant(_has_gradient_of_sums)
