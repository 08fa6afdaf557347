"""In evaluation the output of a sample depends on the other samples of its batch.

What: one sample of a batch is replaced by another, in evaluation mode, and the outputs of all others are compared with
    those before. They must not change. The finding names the first layer whose output for the other samples did.
    Batches in which samples are not the first dimension of all inputs and targets (graphs, sequences with time first)
    are not judged. It is information only.

Formula: max |y_i after the replacement of x_j − y_i before| over all i ≠ j, where y_i is the output for sample i and
    x_j the one that is replaced. Reported is more than 1e-4 of the spread of y, and more than ten times what two equal
    runs differ by.

Why it hurts: predictions change with what happens to be in the batch, and belong to another sample if a reshape mixes
    them. Most often it is a `view` or `reshape` where a `transpose` or `permute` is needed, a softmax or mean over
    dimension 0, attention over the batch (a forgotten `batch_first=True`), or a norm that uses the batch in evaluation
    (NS204).

Threshold: 1e-4, our own choice: sums in another order change float32 results by about 1e-6.

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

Fix: look at the reshapes in and before the layer that is named: the batch dimension has to come first and stay there.
    Write `.transpose(0, 1)` for `.reshape(b, a)`, and `nn.MultiheadAttention(..., batch_first=True)`.

Threads: FutureComputing4AI/MalConv2#6, yaodongyu/TRADES#3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._text import number
from normsmith._torch import leaves_of, map_leaves, version_of
from normsmith.anatomy.float64 import in_float64
from normsmith.anatomy.forward import copied, flat
from normsmith.anatomy.isolation import same_random_numbers
from normsmith.checks.batches import first_rows, rows
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.moments import numbered
from normsmith.checks.restore import modes_kept
from normsmith.checks.rule import Rule

Look = Callable[[nn.Module, Any], None]
"""Gets a layer that has ended, and what it puts out."""

CHANGE = 1e-4
_NOISE = 10
_SAMPLES = 16
_HELD = 2**26
"""Bytes of outputs that are held at once where the layer is looked for: more layers take more forwards."""
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
    other = map_leaves(lambda leaf: _replaced(leaf, samples), batch)
    before = _output(context, batch)
    change = _distance(before, _output(context, other))
    if not _share(before, 0.0, change):
        return
    share = _share(before, _distance(before, _output(context, batch)), change)
    if not share:
        return
    path, share = _first_changed(context, batch, other) or ("", share)
    yield Finding(
        path,
        f"one sample is replaced, and the output for others changes by {number(100 * share, 2)} % of its spread",
        "a reshape that mixes samples, or something that goes over the batch",
        _FIX,
        quantity="change",
        measured=share,
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


def _output(context: Context, batch: Any, look: Look | None = None) -> Tensor | None:
    """What the model puts out for all samples but the middle one; `look` is shown what its layers put out."""
    model = context.network

    def ends(layer: nn.Module, _: Any, output: Any) -> None:
        if look is not None and layer is not model:
            look(layer, output)

    handles = [layer.register_forward_hook(ends) for layer in model.modules()]
    try:
        with modes_kept(model), torch.no_grad(), same_random_numbers(model):
            model.eval()
            return _of_others(numbered(context.output)(model, copied(batch)), rows(batch))
    finally:
        for handle in handles:
            handle.remove()


def _of_others(output: Any, samples: int) -> Tensor | None:
    """The rows of the other samples, of which one may have several; None where there is nothing of each sample."""
    first = _first(output)
    if first is None or len(first) == 0 or len(first) % samples:
        return None
    others = [number for number in range(samples) if number != samples // 2]
    return first.detach().reshape(samples, -1)[others]


def _first(output: Any) -> Tensor | None:
    return next((tensor for tensor in flat(output) if tensor.is_floating_point() and tensor.ndim), None)


def _first_changed(context: Context, batch: Any, other: Any) -> tuple[str, float] | None:
    """The path of the first layer whose output for the others changes, and by how much; None where none does.

    Outputs of some layers at a time are held, those of one forward.
    """
    samples, begin = rows(batch), 0
    while True:
        part = _Part(begin, samples)
        _output(context, batch, part.hold)
        noise, change = _Away(part.held, samples), _Away(part.held, samples)
        _output(context, batch, noise.look)
        _output(context, other, change.look)
        if not part.called == noise.called == change.called:
            raise UnavailableError("the forward does not call the same layers each time")
        for place, before in part.held.items():
            if share := _share(before, noise.away[place], change.away[place]):
                paths = {module: path for path, module in context.network.named_modules()}
                return paths[part.called[place]], share
        begin += len(part.held)
        if begin >= len(part.called):
            return None


class _Part:
    """Holds what layers put out, from one of them on, in the order of their ends, as many as there is room for."""

    def __init__(self, begin: int, samples: int) -> None:
        self._begin, self._samples, self._bytes = begin, samples, 0
        self._last: tuple[Tensor | None, int] = None, 0
        self.held: dict[int, Tensor | None] = {}
        self.called: list[nn.Module] = []

    def hold(self, layer: nn.Module, output: Any) -> None:
        """One layer has ended; one that returns what its last layer did is not held again."""
        place, first = len(self.called), _first(output)
        self.called.append(layer)
        version = 0 if first is None else version_of(first)
        if place >= self._begin and self._bytes < _HELD:
            last, at = self._last
            rows_ = None if first is last and version == at else _of_others(output, self._samples)
            self.held[place] = rows_
            self._bytes += 0 if rows_ is None else rows_.nbytes
        self._last = first, version


class _Away:
    """How far what layers put out in another forward is from what is held; None where it cannot be compared."""

    def __init__(self, held: dict[int, Tensor | None], samples: int) -> None:
        self._held, self._samples = held, samples
        self.away: dict[int, float | None] = {}
        self.called: list[nn.Module] = []

    def look(self, layer: nn.Module, output: Any) -> None:
        """One layer has ended."""
        place = len(self.called)
        self.called.append(layer)
        if place in self._held:
            self.away[place] = _distance(self._held[place], _of_others(output, self._samples))


def _distance(before: Tensor | None, now: Tensor | None) -> float | None:
    if before is None or now is None or before.shape != now.shape:
        return None
    return float((in_float64(now) - in_float64(before)).abs().max())


def _share(before: Tensor | None, noise: float | None, change: float | None) -> float:
    """A change as a share of the spread of what is changed; 0 where it is no more than noise."""
    if before is None or noise is None or change is None:
        return 0.0
    values = in_float64(before)
    spread = max(float((values - values.mean(0)).abs().max()), float(values.abs().max()) * 1e-3)
    return change / spread if spread > 0 and change > max(CHANGE * spread, _NOISE * noise) else 0.0


RULE = Rule("NS409", "sample-leakage", "info", check, __doc__, needs=("batches",))
