"""The outputs that the loss compares with targets come straight out of a norm.

What: a norm whose result the model returns, by itself or through a softmax, sigmoid or reshape, and whose result is
    compared with a target: integer class labels (each smaller than the number of outputs), or values of the same shape.
    Without targets, a batch norm directly after a linear layer or convolution is reported too. Embeddings, which end
    with a norm on purpose, are left alone. It is information only.

Formula: y = γ·z + β, where z has mean 0 and variance 1 over the batch in each output.

Why it hurts: logits cannot grow beyond what γ allows, so that the network cannot become confident. The outputs of a
    regression have a given mean and spread in each batch, whatever the batch contains, and in evaluation they depend on
    running statistics. Such networks do train, and some people like it as a regulariser.

Threshold: none: the norm is the last layer or not.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3), nn.BatchNorm1d(3))
    batches = [(torch.randn(16, 4), torch.randint(3, (16,)))]
    findings = normsmith.check(model, batches, select=["NS104"])
    assert [(finding.code, finding.path) for finding in findings] == [("NS104", "4")]
    assert findings.passed()  # it is information

Fix: take the norm out and end with the linear layer and its bias, as `nn.Linear(8, 3)`.

Threads: yaoing/DAN#14 (before the softmax), kanezaki/pytorch-unsupervised-segmentation#1,
    danielgafni/repalette#10 (removed), jolibrain/joliGEN#41.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from normsmith.anatomy.batch_norms import is_batch_norm
from normsmith.anatomy.forward import flat
from normsmith.anatomy.graph import Event, is_reshape
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.moments import numbered
from normsmith.checks.restore import modes_kept
from normsmith.checks.rule import Rule

_LINKS = {"softmax", "log_softmax", "logsoftmax", "sigmoid", "squeeze", "transpose", "permute"}


def check(context: Context) -> Iterator[Finding]:
    """A finding for the norm whose result is compared with a target."""
    ends = [end for output in context.graph.outputs if (end := _norm_at_the_end(output)) is not None]
    if not ends:
        return
    is_compared = _is_compared(context)
    for event in ends:
        producer = event.sources[0].role == "producer" if event.sources else False
        guessed = producer and event.module is not None and is_batch_norm(event.module)
        if is_compared or (is_compared is None and guessed):
            yield Finding(
                event.path,
                "its result is what the model returns"
                + (" and targets are compared with" if is_compared else ""),
                "a norm after every layer, the last one too",
                Fix(f"take out {event.path or 'the last norm'}, and give the layer before it a bias"),
            )


def _norm_at_the_end(event: Event) -> Event | None:
    """The norm whose result this is, perhaps reshaped or through a link function."""
    while event.role != "norm":
        if not event.sources or not (event.name.lower() in _LINKS or is_reshape(event)):
            return None
        event = event.sources[0]
    return event


def _is_compared(context: Context) -> bool | None:
    """Whether the output is compared with a target; None where there is none, or it cannot be told."""
    if not context.looks_at_data or context.data is None:
        return None
    with modes_kept(context.network), torch.no_grad():
        context.network.eval()
        output, target = numbered(context.forward)(context.network, context.batches[0])
    first = next(flat(output), None)
    if not isinstance(target, Tensor) or first is None or first.ndim < 2:
        return None
    if target.is_floating_point():
        return target.shape == first.shape
    return target.shape == (len(first), *first.shape[2:]) and int(target.max()) < first.shape[1]


RULE = Rule("NS104", "norm-on-output", "info", check, __doc__, needs=("graph",))
