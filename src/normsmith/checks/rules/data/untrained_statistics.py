"""A trained batch norm has the running statistics of a new layer: mean 0 and variance 1.

What: the running mean is 0 and the running variance 1 in every channel, though γ or β of this very layer have been
    trained, so that training forwards must have gone through it. New networks and new heads, whose γ and β still have
    their initial values, are left alone, and so are frozen layers and layers that the forward does not call.

Formula: in evaluation y = γ·(x − 0) / sqrt(1 + eps) + β: nothing is normalised.

Why it hurts: the weights were trained on normalised inputs, and in evaluation they get others: the network is good in
    training and bad in evaluation, where this layer alone may be enough. It comes from a copy of the parameters without
    the buffers (an EMA or target network, or a checkpoint of `named_parameters()`), or from training in evaluation
    mode.

Threshold: none: exactly 0 and 1 in all channels, which no data give.

Reproduction:
    import copy, normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    average, optimizer = copy.deepcopy(model), torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.randn(32, 4) + 3, torch.randint(2, (32,))) for _ in range(16)]
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    for mine, its in zip(average.parameters(), model.parameters()):
        mine.data.copy_(its)  # the buffers are forgotten
    findings = normsmith.check(average, batches)
    assert "NS405" in findings.codes
    assert "NS405" not in normsmith.check(findings.fix(average), batches).codes

Fix: `average = normsmith.surgery.recalibrate(average, batches).apply()`, with the model that has the finding; and from
    now on copy the buffers along with the parameters, as `average.load_state_dict(model.state_dict())` does.

Threads: cleinc/bts#90 (a published checkpoint with 0 and 1), CuriousAI/mean-teacher#9, FlyreelAI/sesemi#36,
    facebookresearch/moco#70, hiwonjoon/tf-frrn#2.
"""

from __future__ import annotations

from collections.abc import Iterator

from normsmith.checks.context import Context
from normsmith.checks.finding import Finding
from normsmith.checks.rule import Rule


def check(context: Context) -> Iterator[Finding]:
    """A finding for each trained norm whose statistics are those of a new layer."""
    for norm in context.norms:
        suspicious = norm.is_at_start and norm.has_trained and not norm.is_frozen
        if not suspicious or norm.momentum == 0 or not context.may_call(norm):
            continue
        yield Finding(
            norm.path,
            "the running mean is 0 and the running variance 1 in all channels, though γ and β are trained",
            "parameters copied without the buffers (EMA, target network, checkpoint), or training in evaluation mode",
            context.recalibration(),
            also=norm.also,
        )


RULE = Rule("NS405", "untrained-statistics", "error", check, __doc__)
