"""NS411: channels that say nothing."""

from __future__ import annotations

import torch
from tests.checks.networks import Recurrent, Residual, cnn, images, mlp, sequences, trained, vectors
from tests.contracts.fixes import reproduced, run_fix
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith
from normsmith.checks import named_rule


def ran(model: nn.Module, batches: list, times: int = 20) -> nn.Module:
    """The model after forwards in training mode."""
    with torch.no_grad():
        for x, _ in batches * times:
            model(x)
    return model


def dead_relu() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 2))
    with torch.no_grad():
        model[0].bias[3:6] = -100
    return ran(model, vectors())


def no_scale() -> nn.Module:
    model = trained(cnn(), images(8), 3)
    with torch.no_grad():
        model[1].weight[:2] = 0
    return model


def stuck_cells() -> nn.Module:
    """States of a GRU whose update gates are shut."""
    model = Recurrent()
    with torch.no_grad():
        model.cells.bias_ih_l0[16:20] = 100.0
    return ran(model, sequences(), 20)


class TestDeadChannel(RuleContract):
    code = "NS411"
    faulty = {
        "dead units before it, in an MLP": lambda: Case(dead_relu()),
        "no scale, in a CNN": lambda: Case(no_scale()),
        "a constant feature of the input": lambda: Case(
            ran(nn.Sequential(nn.BatchNorm1d(8)), [(x * (torch.arange(8) > 0), y) for x, y in vectors()])
        ),
        "gates that are shut, in a recurrent network": lambda: Case(stuck_cells()),
    }
    healthy = {
        "trained": lambda: Case(trained(mlp(), vectors(), 5)),
        "a residual block that starts at γ = 0": lambda: Case(Residual(zero=True)),
        "the same after some forwards": lambda: Case(ran(Residual(zero=True), images(4), 2)),
        "the same, trained": lambda: Case(trained(Residual(zero=True), images(8), 3)),
        "new": lambda: Case(cnn()),
        "no statistics": lambda: Case(trained(mlp(track_running_stats=False), vectors(4), 1)),
    }


def test_channels_are_named():
    findings = normsmith.check(dead_relu(), select=["NS411"])
    assert "3 of 16 channels" in findings[0].message
    assert "3–5" in findings[0].message
    assert findings[0].evidence == {"dead": [3, 4, 5]}
    assert findings.passed()


def test_the_fix_revives_them():
    torch.manual_seed(0)
    scope = reproduced(named_rule("NS411"))
    run_fix(named_rule("NS411"), scope)
    ran(scope["model"], [(torch.randn(32, 4), None) for _ in range(8)])
    assert not normsmith.check(scope["model"], select=["NS411"]).found


def test_the_fix_gives_a_channel_its_scale_back():
    rule, scope = named_rule("NS411"), {"model": no_scale(), "nn": nn, "torch": torch}
    findings = normsmith.check(scope["model"], select=["NS411"])
    run_fix(rule, {**scope, "findings": findings, "path": findings[0].path})
    assert not normsmith.check(scope["model"], select=["NS411"]).found
