"""NS201: a momentum of TensorFlow's convention."""

from __future__ import annotations

import pytest
from tests.checks.networks import Attention, Recurrent, Residual, cnn, mlp
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith
from normsmith import layers


def frozen() -> nn.Module:
    model = cnn(momentum=0.9).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


class TestInvertedMomentum(RuleContract):
    code = "NS201"
    faulty = {
        "Keras' default in an MLP": lambda: Case(mlp(momentum=0.99)),
        "0.9 in a residual network, without data": lambda: Case(Residual(momentum=0.9).eval()),
        "0.997 in a recurrent network": lambda: Case(Recurrent(momentum=0.997)),
        "a layer of normsmith in a transformer": lambda: Case(
            normsmith.convert(Attention(momentum=0.9), to="batch")
        ),
    }
    healthy = {
        "a detector's 0.03": lambda: Case(cnn(momentum=0.03)),
        "the plain average": lambda: Case(mlp(momentum=None)),
        "the usual 0.1": lambda: Case(Residual()),
        "norms that are frozen on purpose do not average": lambda: Case(frozen()),
        "a momentum without running statistics": lambda: Case(mlp(momentum=0.9, track_running_stats=False)),
        "group norm has none": lambda: Case(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8))),
    }


@pytest.mark.parametrize(("momentum", "better"), [(0.99, 0.01), (0.9, 0.1), (0.5, 0.1), (0.997, 0.003)])
def test_the_fix_is_the_other_convention_where_that_is_usual(momentum, better):
    (finding,) = normsmith.check(nn.Sequential(nn.BatchNorm1d(4, momentum=momentum)), select=["NS201"])
    assert f"{better}, only='0'" in finding.fix.code
    assert finding.measured == momentum


def test_one_is_another_rules():
    model = nn.Sequential(layers.BatchNorm1d(4, momentum=1.0))
    assert normsmith.check(model).codes == ("NS209",)
