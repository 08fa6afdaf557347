"""Seconds to plan, print, apply and revert 2,000 replacements of batch norms in one model.

Goal: planned in less than 2 seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.protocol import interleave, write
from normsmith.surgery import Plan, convert

NORMS = 2000
ROUNDS = 9


def deep() -> nn.Module:
    """A network of 2,000 blocks; small, since planning looks at modules and not into tensors."""
    return nn.Sequential(
        *(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()) for _ in range(NORMS))
    )


def there_and_back(plan: Plan) -> None:
    """Apply and revert."""
    plan.apply()
    plan.revert()


def main() -> None:
    """Measure each kind of conversion."""
    torch.set_num_threads(1)
    model = deep()
    plan = convert(model, "renorm", total_steps=1000)
    assert len(plan.changes) == NORMS
    assert not plan.refusals
    candidates: dict[str, Callable[[], object]] = {
        "plan: batch": partial(convert, model, "batch"),
        "plan: renorm": partial(convert, model, "renorm", total_steps=1000),
        "plan: frozen": partial(convert, model, "frozen"),
        "plan: group": partial(convert, model, "group"),
        "print": partial(str, plan),
        "apply and revert": partial(there_and_back, plan),
    }
    rows = ["| what | seconds (quartiles) | rounds |", "|---|---|---|"]
    for name, times in interleave(candidates, ROUNDS).items():
        low, middle, high = statistics.quantiles(times, n=4)
        rows.append(f"| {name} | {middle:.3f} ({low:.3f} to {high:.3f}) | {len(times)} |")
    write("surgery_speed", f"Surgery on a model of {NORMS:,} batch norms", "\n".join(rows))


if __name__ == "__main__":
    main()
