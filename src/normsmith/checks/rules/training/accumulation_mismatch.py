"""Gradients of several micro-batches are accumulated, but each batch norm sees one small micro-batch at a time.

What: your `training_step` takes several backwards before the optimizer's step, each from a forward on other samples;
    and a norm gets fewer than 16 values per channel in each (NS301), while all of them together have more.
    Micro-batches that are large enough lose nothing, and nothing is reported.

Formula: k micro-batches of n values: the gradients are those of k·n values, the statistics those of n, with a relative
    error of the standard deviation σ of about 1 / sqrt(2·(n − 1)). The running statistics move k times in a step,
    together by 1 − (1 − momentum)^k.

Why it hurts: people accumulate gradients because a large batch does not fit into memory, and expect the results of the
    large batch. Batch norm does not accumulate: training is that of the small batch, noisy, and worse in evaluation.

Threshold: 16 values, as in NS301: our own choice.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    batches = [(torch.randn(4, 4), torch.randint(2, (4,))) for _ in range(8)]

    def step(model, batches, optimizer):
        for _ in range(4):
            x, y = next(batches)
            nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    given = {"training_step": step, "level": "deep", "select": ["NS303"]}
    findings = normsmith.check(model, batches, **given)
    assert findings.codes == ("NS303",)
    assert normsmith.check(findings.fix(model), batches, **given).passed()

Fix: `model = normsmith.surgery.convert(model, "renorm", schedule="constant").apply()`: batch renorm normalises by the
    batch, then corrects the result towards the running statistics, within bounds (with the schedule `"constant"` the
    bounds are the same from the first step on; with `total_steps=10_000` in place of `schedule` they widen over so many
    training steps). With several devices, `"sync"` in place of accumulation; or `"group"`, group norm. For the running
    statistics alone, `model = normsmith.surgery.convert(model, "batch").apply()` once, and
    `with normsmith.accumulate(model):` around the micro-batches of each step: the running statistics then come from the
    whole step, but training itself stays as noisy as it was.

Threads: pytorch/pytorch#46516, giotto-ai/giotto-deep#75, ultralytics/yolov5#1630, andreped/GradientAccumulator#6,
    Deci-AI/super-gradients#1858.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch import nn

from normsmith._text import number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.norms import Norm
from normsmith.checks.rule import Rule
from normsmith.checks.watcher import NormCall, Record
from normsmith.layers.batch_renorm import RenormBase
from normsmith.surgery import convert

FEW = 16
_FIX = Fix(
    'model = normsmith.surgery.convert(model, "renorm", schedule="constant").apply()',
    plan=partial(convert, to="renorm", schedule="constant"),
    keeps_outputs=True,
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm that gets small parts of an accumulated batch."""
    groups = [group for group in _for_each_update(context.own_steps) if _is_accumulated(group)]
    for norm in context.norms:
        if not _counts_samples_alone(norm):
            continue
        for group in groups:
            values = [
                sum(call.values for call in part.calls if call.path == norm.path and call.training)
                for part in group
            ]
            few = min(values)
            if not 0 < few < FEW:
                continue
            error = number(100 / (2 * max(few - 1, 1)) ** 0.5, 2)
            yield Finding(
                norm.path,
                f"gets {few} values per channel in each of {len(values)} micro-batches: σ is off by some {error} %, "
                f"though gradients are those of {sum(values)}",
                "gradients are accumulated, statistics are not",
                _FIX,
                quantity="values per channel",
                measured=few,
                threshold=FEW,
                batches=len(values),
                also=norm.also,
            )
            break


def _counts_samples_alone(norm: Norm) -> bool:
    """Whether a norm normalises by the samples of a forward and nothing else, as it is."""
    module = norm.module
    shares = isinstance(module, nn.SyncBatchNorm) or getattr(module, "process_group", None) is not None
    return not (norm.is_frozen or shares or isinstance(module, RenormBase))


@dataclass(frozen=True)
class _Part:
    """A forward whose gradient went into an update: what came, before which backward, and its calls of norms."""

    inputs: tuple[float, ...]
    backward: tuple[int, int]
    calls: tuple[NormCall, ...]


def _for_each_update(steps: tuple[Record, ...]) -> Iterator[list[_Part]]:
    """The forwards that went into each update of the parameters; an update may take several training steps."""
    parts: list[_Part] = []
    for at, record in enumerate(steps):
        forwards = iter(enumerate(record.forwards))
        for event in record.events:
            if event == "forward":
                number, forward = next(forwards)
                if forward.training and forward.reached:
                    calls = tuple(call for call in record.calls if call.forward == number)
                    parts.append(_Part(forward.inputs, (at, record.before(number, "backward")), calls))
            elif event == "step":
                yield parts
                parts = []
        if record.moved and "step" not in record.events:  # by an optimizer of their own
            yield parts
            parts = []
    yield parts


def _is_accumulated(group: list[_Part]) -> bool:
    """Whether several backwards went into an update, from other samples each; sharpness-aware steps use the same."""
    return len({part.backward for part in group}) > 1 and len({part.inputs for part in group}) > 1


RULE = Rule("NS303", "accumulation-mismatch", "warning", check, __doc__, needs=("batches", "training"))
