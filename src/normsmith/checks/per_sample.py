"""What reaches the batch norms from each sample by itself, as a table: one row for a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normsmith.anatomy.forward import copied, flat
from normsmith.anatomy.isolation import same_random_numbers
from normsmith.checks.batches import rows
from normsmith.checks.finding import UnavailableError
from normsmith.checks.moments import numbered
from normsmith.checks.restore import modes_kept


def samples_at(
    model: nn.Module,
    modules: Sequence[nn.Module],
    batches: Sequence[Any],
    forward: Callable[[nn.Module, Any], Any],
) -> list[Tensor]:
    """For each batch a table (samples, columns) of channel means and mean squares at the inputs of modules.

    In evaluation mode, where a sample does not depend on its batch. Each module counts the same: its columns have
    mean 0 over all samples, and together a variance of 1. Constant columns are left out.

    Raises:
        UnavailableError: the model raised, or no module got something of each sample.
    """
    tables: list[list[Tensor]] = [[] for _ in modules]
    calls: list[list[Tensor]] = []

    def hook(number: int) -> Callable[..., None]:
        def enters(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            x = next(flat(arguments), None)
            if x is not None and x.ndim > 1 and x.shape[0] % samples == 0 and x.numel():
                x = x.detach().float().reshape(samples, -1, *x.shape[1:]).transpose(1, 2).flatten(2)
                calls[number].append(torch.cat([x.mean(2), x.square().mean(2)], 1).double().cpu())

        return enters

    handles = [module.register_forward_pre_hook(hook(number)) for number, module in enumerate(modules)]
    run = numbered(forward)
    try:
        with modes_kept(model), torch.no_grad(), same_random_numbers(model):
            model.eval()
            for batch in batches:
                samples, calls = max(rows(batch), 1), [[] for _ in modules]
                run(model, copied(batch))
                for number, parts in enumerate(calls):
                    if parts and len({part.shape for part in parts}) == 1:
                        tables[number].append(torch.stack(parts).mean(0))
    finally:
        for handle in handles:
            handle.remove()
    scaled = [_scaled(torch.cat(table)) for table in tables if len(table) == len(batches)]
    wide = [table for table in scaled if table is not None]
    if not wide:
        raise UnavailableError("no batch norm gets something of each sample that can be told apart")
    return list(torch.split(torch.cat(wide, 1), [max(rows(batch), 1) for batch in batches]))


def _scaled(table: Tensor) -> Tensor | None:
    table = table[:, table.isfinite().all(0)]
    if len(table) < 2 or table.shape[1] == 0:
        return None
    table = table[:, table.std(0) > 1e-6 * (table.abs().mean(0) + 1e-12)]
    if table.shape[1] == 0:
        return None
    return (table - table.mean(0)) / table.std(0) / math.sqrt(table.shape[1])
