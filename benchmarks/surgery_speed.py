"""Seconds to plan, print, apply and revert 2,000 changes in one model. `python -m benchmarks.surgery_speed`.

Goal: planned in less than 2 seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.protocol import interleave, write
from normsmith.surgery import Plan, convert, fold, freeze, insert, strip

NORMS = 2000
ROUNDS = 5


def deep() -> nn.Module:
    """A network of 2,000 blocks; small, since planning looks at modules and not into tensors."""
    return nn.Sequential(
        *(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()) for _ in range(NORMS))
    )


def bare() -> nn.Module:
    """Without norms, and flat: all layers are children of one container."""
    return nn.Sequential(*(part for _ in range(NORMS + 1) for part in (nn.Linear(4, 4), nn.ReLU())))


def there_and_back(plan: Plan) -> None:
    """Apply and revert."""
    plan.apply()
    plan.revert()


def main() -> None:
    """Measure each kind of operation."""
    torch.set_num_threads(1)
    model, without = deep(), bare()
    plan, inserts = convert(model, "renorm", total_steps=1000), insert(without, "batch")
    assert len(plan.changes) == NORMS
    assert len(inserts.changes) == 2 * NORMS  # a bias goes with each norm that comes
    assert not plan.refusals + inserts.refusals
    candidates: dict[str, Callable[[], object]] = {
        "plan: batch": partial(convert, model, "batch"),
        "plan: renorm": partial(convert, model, "renorm", total_steps=1000),
        "plan: frozen": partial(convert, model, "frozen"),
        "plan: group": partial(convert, model, "group"),
        "plan: insert batch": partial(insert, without, "batch"),
        "plan: strip": partial(strip, model),
        "plan: fold": partial(fold, model),
        "plan: freeze": partial(freeze, model),
        "print": partial(str, plan),
        "apply and revert renorm": partial(there_and_back, plan),
        "apply and revert inserts": partial(there_and_back, inserts),
    }
    rows = ["| what | seconds (quartiles) | rounds |", "|---|---|---|"]
    for name, times in interleave(candidates, ROUNDS).items():
        low, middle, high = statistics.quantiles(times, n=4)
        rows.append(f"| {name} | {middle:.3f} ({low:.3f} to {high:.3f}) | {len(times)} |")
    write("surgery_speed", f"Surgery on a model of {NORMS:,} batch norms", "\n".join(rows))


if __name__ == "__main__":
    main()
