"""Most units of a ReLU are dead: they put out 0 for nearly every sample of every batch that was looked at.

What: in eight training steps on a copy, more than half of the units of a layer are dead: in every batch fewer than 1 %
    of a unit's values are above 0. It is normal that half of the values of a ReLU are 0. A unit that is active for a
    few per cent of the samples is fine. ReLUs that are modules or functions (`F.relu`) are looked at, those that are
    fused into a norm are not.

Formula: a unit u is dead if its share of values above 0 is below 0.01 in every batch. Reported is a share of dead units
    above 0.5, and so many that chance would give it in less than 0.5 % of cases, if each unit were dead with
    probability ½.

Why it hurts: a dead unit gets no gradient and stays dead. The layer has only the capacity of the other units, and if
    all are dead, what is before it learns nothing.

Threshold: 1 % and half of the units are those of Amazon SageMaker Debugger (TheDeepChecker has half of the units as
    well). Our own choice is that it is so in each batch and beyond chance, and that a unit needs 32 values to be
    judged.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    nn.init.constant_(model[0].bias, -8.0)  # one update with a learning rate that is too high does the same
    batches = [(torch.randn(64, 8), torch.randint(2, (64,))) for _ in range(8)]
    given = {"loss": nn.functional.cross_entropy, "level": "deep", "select": ["NS501"]}
    (finding,) = normsmith.check(model, batches, **given)
    assert finding.path == "1"
    normsmith.layers.init.he_(model)
    assert normsmith.check(model, batches, **given).passed()

Fix: `normsmith.layers.init.he_(model)` before training, which draws new weights for all linear layers and convolutions,
    with dead units or not; where units die in training, a lower learning rate or a warm-up, and a norm before the
    activation: `model = normsmith.surgery.insert(model, "batch").apply()`.

Threads: keras-team/keras#7057, keras-team/keras-contrib#115, CompPhysVienna/n2p2#25.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

from normsmith._text import count, number
from normsmith.checks.activations import CUT, Activation
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule

ACTIVE = 0.01
SHARE = 0.5
_CHANCE = 0.005
_FEWEST = 32


def check(context: Context) -> Iterator[Finding]:
    """A finding for each ReLU most of whose units are dead."""
    _ = context.graph  # without it no activation can be told
    for activation in context.signals.activations:
        if activation.event.name.lower() not in CUT or activation.values < _FEWEST:
            continue
        units, dead = len(activation.active), _dead(activation)
        if dead > SHARE * units and by_chance(dead, units) < _CHANCE:
            yield Finding(
                activation.event.path,
                f"{dead} of {count(units, 'unit')} put out 0 for nearly all of {number(activation.values)} values",
                "biases or weights that push all inputs below 0, or updates that were too large",
                Fix("normsmith.layers.init.he_(model)  # before training, and a lower learning rate"),
                quantity="share of dead units",
                measured=dead / units,
                threshold=SHARE,
                batches=context.signals.steps,
            )


def _dead(activation: Activation) -> int:
    return int((activation.active < ACTIVE).sum())


def by_chance(dead: int, units: int) -> float:
    """The probability of so many dead units or more, if each is on or off for all samples by the toss of a coin.

    >>> by_chance(8, 8), by_chance(5, 8) > 0.3
    (0.00390625, True)
    """
    return float(sum(comb(units, k) for k in range(dead, units + 1)) / 2**units)


RULE = Rule("NS501", "dead-relu", "warning", check, __doc__, needs=("graph", "batches", "training"))
