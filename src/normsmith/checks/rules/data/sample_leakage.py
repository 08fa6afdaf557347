"""In evaluation the output of a sample depends on the other samples of its batch.

What: one sample of a batch is replaced by another, in evaluation mode, and the outputs of all others are compared with
    those before. They must not change. The finding names the first layer whose output for other samples did. Batches
    whose inputs and target do not all begin with the samples (graphs, time first) are not judged. It is information.

Formula: max |y_i(x_j replaced) − y_i| over i ≠ j, above 1e-4 of the spread of y and ten times what two
    equal runs differ by.

Why it hurts: predictions change with what happens to be in the batch, and are another's if a reshape mixes samples.
    Most often it is a `view` or `reshape` where a `transpose` or `permute` is meant, a softmax or mean over dimension
    0, attention over the batch (`batch_first`), or a norm that goes by the batch in evaluation.

Threshold: 1e-4, our own: float32 gives about 1e-6 for sums in another order.

Reproduction:
    import normsmith, torch
    from torch import nn

    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)

        def forward(self, x):
            return self.norm(self.layer(x)).reshape(8, -1).t()  # a transpose is not a reshape

    batches = [(torch.randn(16, 4), torch.zeros(16)) for _ in range(4)]
    findings = normsmith.check(Mixing(), batches, select=["NS409"])
    assert findings.codes == ("NS409",)
    good = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    assert not normsmith.check(good, batches, select=["NS409"]).found

Fix: look at the reshapes before the layer that is named: the batch dimension has to come first, and stay so.

Threads: FutureComputing4AI/MalConv2#6, yaodongyu/TRADES#3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._text import number
from normsmith._torch import leaves_of, map_leaves
from normsmith.anatomy.float64 import in_float64
from normsmith.anatomy.forward import copied, flat
from normsmith.anatomy.isolation import same_random_numbers
from normsmith.checks.batches import first_rows, rows
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.moments import numbered
from normsmith.checks.restore import modes_kept
from normsmith.checks.rule import Rule

CHANGE = 1e-4
_NOISE = 10
_SAMPLES = 16
_FIX = Fix(
    "keep the batch first: transpose or permute where a reshape mixes samples, batch_first=True in attention"
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for the first layer by which samples have mixed."""
    batch = first_rows(context.batches[0], _SAMPLES)
    samples = rows(batch)
    if samples < 2:
        raise UnavailableError("a batch of one sample has no others")
    tensors = [leaf for leaf in leaves_of(batch) if isinstance(leaf, Tensor) and leaf.ndim]
    if any(len(tensor) != samples for tensor in tensors):
        raise UnavailableError("inputs and target do not all begin with the samples")
    before, again = _outputs(context, batch), _outputs(context, batch)
    after = _outputs(context, map_leaves(lambda leaf: _replaced(leaf, samples), batch))
    model_output = before[-1][1]
    if model_output is None or not _changed(model_output, again[-1][1], after[-1][1]):
        return
    if not len(before) == len(again) == len(after):
        raise UnavailableError("the forward does not call the same layers each time")
    rows_ = zip(before, again, after, strict=True)
    path, change = next(
        (p, c) for (p, one), (_, two), (_, three) in rows_ if (c := _changed(one, two, three))
    )
    yield Finding(
        path,
        f"one sample is replaced, and the output for others changes by {number(100 * change, 2)} % of its spread",
        "a reshape that mixes samples, or something that goes over the batch",
        _FIX,
        quantity="change",
        measured=change,
        threshold=CHANGE,
        batches=1,
    )


def _replaced(leaf: Any, samples: int) -> Any:
    """A tensor whose middle sample is another; what goes over the batch one way reaches those on that side of it."""
    if not isinstance(leaf, Tensor) or leaf.ndim == 0 or len(leaf) != samples:
        return leaf
    other = leaf.clone()
    middle = samples // 2
    other[middle] = leaf[0] if not leaf.is_floating_point() else 2 * leaf[0] - leaf[middle] + leaf.std()
    return other


def _outputs(context: Context, batch: Any) -> list[tuple[str, Tensor | None]]:
    """What layers put out for all samples but the middle one, in the order of their ends, and then the model."""
    kept: list[tuple[str, Tensor | None]] = []
    samples = rows(batch)
    paths = {module: path for path, module in context.network.named_modules() if path}

    def leaves(module: nn.Module, _: Any, output: Any) -> None:
        kept.append((paths[module], _of_others(output, samples)))

    handles = [module.register_forward_hook(leaves) for module in paths]
    try:
        with modes_kept(context.network), torch.no_grad(), same_random_numbers(context.network):
            context.network.eval()
            output = numbered(context.output)(context.network, copied(batch))
    finally:
        for handle in handles:
            handle.remove()
    return [*kept, ("", _of_others(output, samples))]


def _of_others(output: Any, samples: int) -> Tensor | None:
    """The rows of the other samples, of which one may have several; None where there is nothing of each sample."""
    first = next((t for t in flat(output) if t.is_floating_point() and t.ndim), None)
    if first is None or len(first) == 0 or len(first) % samples:
        return None
    others = [number for number in range(samples) if number != samples // 2]
    return in_float64(first.detach()).reshape(samples, -1)[others]


def _changed(before: Tensor | None, again: Tensor | None, after: Tensor | None) -> float:
    """By how much an output changed, as a share of its spread; 0 where that is no more than noise."""
    if (
        before is None
        or again is None
        or after is None
        or before.shape != after.shape
        or before.shape != again.shape
    ):
        return 0.0
    spread = max(float((before - before.mean(0)).abs().max()), float(before.abs().max()) * 1e-3)
    change, noise = float((after - before).abs().max()), float((again - before).abs().max())
    return change / spread if spread > 0 and change > max(CHANGE * spread, _NOISE * noise) else 0.0


RULE = Rule("NS409", "sample-leakage", "info", check, __doc__, needs=("batches",))
