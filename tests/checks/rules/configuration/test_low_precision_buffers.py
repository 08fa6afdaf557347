"""NS208: running statistics in half precision."""

from __future__ import annotations

import torch
from tests.checks.networks import Attention, Recurrent, Residual, cnn, mlp
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith


def buffers_alone() -> nn.Module:
    """Parameters in float32, statistics in float16, as code that saves memory does."""
    model = Residual()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = module.running_mean.half(), module.running_var.half()
    return model


def kept() -> nn.Module:
    """A network in bfloat16 whose norms went back to float32."""
    model = cnn().bfloat16()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    return model


def frozen() -> nn.Module:
    model = Recurrent().half().train()
    model.norm.eval()
    return model


class TestLowPrecisionBuffers(RuleContract):
    code = "NS208"
    faulty = {
        "an MLP in bfloat16": lambda: Case(mlp().bfloat16()),
        "a transformer in float16": lambda: Case(Attention().half()),
        "statistics alone": lambda: Case(buffers_alone()),
    }
    healthy = {
        "float32": lambda: Case(mlp()),
        "float64": lambda: Case(Residual().double()),
        "bfloat16 around norms in float32": lambda: Case(kept()),
        "layers of normsmith keep them in float32": lambda: Case(
            normsmith.convert(cnn(), to="batch").bfloat16()
        ),
        "frozen in training": lambda: Case(frozen()),
        "no statistics": lambda: Case(mlp(track_running_stats=False).half()),
    }


def test_for_inference_it_is_information():
    findings = normsmith.check(cnn().half().eval(), select=["NS208"])
    assert [finding.severity for finding in findings] == ["info", "info"]


def test_it_says_what_is_lost_and_the_fix_mends_it():
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=0.01).bfloat16())
    (finding,) = normsmith.check(model, select=["NS208"])
    assert "bfloat16: updates by less than 39 %" in finding.message
    exec(finding.fix.code, {"model": model})
    assert normsmith.check(model, select=["NS208"]).passed()
    assert model(torch.randn(8, 4).bfloat16()).dtype == torch.bfloat16
