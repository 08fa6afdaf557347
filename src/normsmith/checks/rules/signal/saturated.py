"""Most units of a sigmoid or tanh within the network are saturated: their inputs lie in the flat part.

What: in eight training steps on a copy, more than half of the units of an activation have more than half of their
    values in the flat part, in every batch. The network's output, which may be certain, and gates, which only multiply
    and may be open or closed, are not looked at.

Formula: flat is |x| > 5 for the sigmoid, and |x| > 2.5 for tanh(x) = 2·sigmoid(2x) − 1, where x is the input of the
    activation. The slope there is below 3 % of the greatest.

Why it hurts: the gradient is multiplied by the slope of each activation: layers before it get less than 3 % of it, and
    less again with each such layer. Such units act as constants or switches.

Threshold: ±5 in half of the units is that of DeepDiagnosis, which does not scale it for tanh as we do; TheDeepChecker
    has a measure of saturation above 0.85 in half of the units. That it is so in every batch is our own choice.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 32), nn.Sigmoid(), nn.Linear(32, 2))
    batches = [(50 * torch.randn(64, 8), torch.randint(2, (64,))) for _ in range(8)]  # raw inputs
    given = {"loss": nn.functional.cross_entropy, "level": "deep", "select": ["NS502"]}
    (finding,) = normsmith.check(model, batches, **given)
    assert finding.path == "1"
    normsmith.surgery.insert(model, "batch").apply()
    assert normsmith.check(model, batches, **given).passed()

Fix: a norm before the activation, `model = normsmith.surgery.insert(model, "batch").apply()`, before training; scaled
    inputs (NS401); or smaller initial weights: `normsmith.layers.init.xavier_(model)`.

Threads: mukul-rathi/deep-learning-tutorials#2, CompPhysVienna/n2p2#25.
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith._text import count, number
from normsmith.anatomy.graph import Event, Graph
from normsmith.checks.activations import FLAT
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule

SHARE = 0.5


def check(context: Context) -> Iterator[Finding]:
    """A finding for each activation most of whose units are saturated."""
    graph = context.graph
    for activation in context.signals.activations:
        name = activation.event.name.lower()
        if name not in FLAT or not _is_within(graph, activation.event):
            continue
        units, flat = len(activation.flat), int((activation.flat > SHARE).sum())
        if flat > SHARE * units:
            yield Finding(
                activation.event.path,
                f"{flat} of {count(units, 'unit')} have most of their inputs beyond ±{number(FLAT[name])}, where the "
                f"{name} is flat",
                "inputs or weights on too large a scale, and no norm before the activation",
                Fix('model = normsmith.surgery.insert(model, "batch").apply()  # before training'),
                quantity="share of saturated units",
                measured=flat / units,
                threshold=SHARE,
                batches=context.signals.steps,
            )


def _is_within(graph: Graph, event: Event) -> bool:
    """Whether other layers with weights come after an activation, and it is no gate."""
    is_gate = any(later.name == "mul" for later in graph.consumers(event))
    has_weights = (
        later
        for later in graph.events[event.index + 1 :]
        if later.role == "producer"
        or (
            later.module is not None
            and later.role == "other"
            and any(True for _ in later.module.parameters())
        )
    )
    return not is_gate and any(graph.leads_to(event, later) for later in has_weights)


RULE = Rule("NS502", "saturated", "warning", check, __doc__, needs=("graph", "batches", "training"))
