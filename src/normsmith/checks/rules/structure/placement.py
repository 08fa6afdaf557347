"""A batch norm stands before an s-shaped activation, or after a ReLU: which side is better depends on the network.

What: a batch norm whose result goes to a sigmoid, tanh or the like, or that takes the result of a ReLU or one of its
    relatives. It is information only: neither is a fault.

Formula: norm before the activation: act(norm(W·x)); after it: norm(act(W·x)), with the layer's weight W, its input x
    and the activation act.

Why it hurts: perhaps not at all. Before an s-shaped activation the norm centres the inputs where the slope is largest,
    and γ and β decide how far it saturates. After a ReLU it normalises a skewed distribution with a heap at 0, and the
    next layer gets inputs of mean 0. Published comparisons go either way.

Threshold: none: it depends, and only an experiment with your network on your data can tell.

Reproduction:
    import normsmith
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2))
    findings = normsmith.check(model, select=["NS109"])
    assert [(finding.code, finding.path) for finding in findings] == [("NS109", "2")]
    assert findings.passed()  # it is information

Fix: `normsmith study my_task.py:task -q placement` on the command line trains your network both ways and compares them
    (`task` describes network and data); `model = normsmith.surgery.place(model, "after").apply()`, or `"before"`, moves
    the norms before training.

Threads: keras-team/keras#1802 (which side is it), gcr/torch-residual-networks#5, cvjena/cnn-models#3,
    keras-team/keras#4618.
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.passing import moves
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule

_S_SHAPED = {"sigmoid", "tanh", "softsign", "hardsigmoid", "hardtanh", "hard_sigmoid"}
_RECTIFIERS = {
    "relu",
    "relu6",
    "leaky_relu",
    "leakyrelu",
    "prelu",
    "rrelu",
    "elu",
    "celu",
    "gelu",
    "silu",
    "mish",
}
_FIX = Fix("normsmith study my_task.py:task -q placement")


def check(context: Context) -> Iterator[Finding]:
    """A finding for each batch norm that stands like that."""
    for norm in context.norms:
        where = next(
            (w for event in context.calls(norm) if (w := _where(context.graph, event)) is not None), None
        )
        if where is not None and not norm.is_frozen:
            yield Finding(norm.path, where, "one of two usual orders", _FIX, also=norm.also)


def _where(graph: Graph, event: Event) -> str | None:
    """On which side of an activation a norm stands, where that is worth a study."""
    before = event.sources[0] if event.sources else None
    while before is not None and moves(before) and before.sources:
        before = before.sources[0]
    if before is not None and before.name.lower() in _RECTIFIERS:
        return f"stands after an activation, {before.name}"
    after = next((e for e in _consumers(graph, event) if e.name.lower() in _S_SHAPED), None)
    return None if after is None else f"stands before an s-shaped activation, {after.name}"


def _consumers(graph: Graph, event: Event) -> Iterator[Event]:
    """The calls that take a result, also where it is moved or pooled before."""
    for later in graph.consumers(event):
        if moves(later):
            yield from _consumers(graph, later)
        else:
            yield later


RULE = Rule("NS109", "placement", "info", check, __doc__, needs=("graph",))
