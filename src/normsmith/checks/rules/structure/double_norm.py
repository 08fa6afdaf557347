"""Two norms follow each other with nothing between them.

What: a norm of any kind (batch, layer, group, instance, RMS) whose only consumer is another norm, with nothing but
    identities between. Where the result of the first one is used elsewhere too, or an activation, a layer or a pooling
    stands between, nothing is reported. It is information only.

Formula: let z be the normalised input of the first batch norm, and norm(·) the second one before its own γ and β. Then
    norm(γ·z + β) = z for γ > 0 and −z for γ < 0, up to eps: the second one undoes γ and β of the first.

Why it hurts: hardly. It costs memory and time for nothing, and has parameters without effect. Two norms of different
    kinds do not undo each other, yet mostly only one is meant, and the other has come in with a block that ends with a
    norm.

Threshold: none: the two norms follow each other or not.

Reproduction:
    import normsmith
    from torch import nn

    block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    model = nn.Sequential(block, nn.BatchNorm2d(8), nn.ReLU())
    findings = normsmith.check(model, select=["NS103"])
    assert [(finding.code, finding.path) for finding in findings] == [("NS103", "1")]
    assert findings.passed()  # it is information

Fix: take one out before training. In a trained network
    `model = normsmith.surgery.strip(model, only="0.1", fold=True).apply()`, where "0.1" is the norm that comes first,
    folds that norm into the layer before it, with the same outputs in evaluation, if it is a batch norm directly after
    a linear layer or convolution. The finding's own path is that of the second norm, which has no layer before it to
    fold into.

Threads: kwotsin/TensorFlow-Xception#1 (twice by mistake), pytorch/pytorch#83747, THUDM/GCC#15 (with an activation
    between).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from normsmith.anatomy.batch_norms import BatchNorm, is_batch_norm
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.read_batch_norm import read_batch_norm
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule

_NOTHING = {"contiguous", "clone", "to", "float", "half", "double"}


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm right after another one."""
    graph = context.graph
    for event in graph.having("norm"):
        first = _norm_before(graph, event)
        if first is None or first.module is event.module:
            continue
        yield Finding(
            event.path,
            f"normalises what {first.path or 'a norm'} has just normalised",
            "a block that ends with a norm, before one that begins with a norm",
            Fix(f"take out {event.path} or {first.path}"),
        )


def _norm_before(graph: Graph, event: Event) -> Event | None:
    """The norm whose result this one alone takes, with nothing between; None where there is none."""
    while event.sources:
        event = event.sources[0]
        if graph.is_used_elsewhere(event):
            return None
        if event.role == "norm":
            return None if _activates(event.module) else event
        is_nothing = isinstance(event.module, nn.Identity) or (
            event.kind == "function" and event.name in _NOTHING
        )
        if not is_nothing:
            return None
    return None


def _activates(norm: nn.Module | None) -> bool:
    """Whether a norm is fused with an activation, which then is between."""
    if norm is None or not is_batch_norm(norm):
        return False
    read = read_batch_norm(norm)
    return isinstance(read, BatchNorm) and read.activation is not None


RULE = Rule("NS103", "double-norm", "info", check, __doc__, needs=("graph",))
