"""NS111: norms over one value."""

from __future__ import annotations

from tests.checks.networks import cnn, images, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn

import normsmith


def with_groups(groups: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.GroupNorm(groups, 16), nn.ReLU(), nn.Linear(16, 2))


def pooled(norm: nn.Module, side: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(side), norm, nn.ReLU(), nn.Flatten())


class LastState(nn.Module):
    """An instance norm on the last state of a GRU, as a sequence of one step."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.cells, self.norm = nn.GRU(8, 16, batch_first=True), norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.cells(x)[0][:, -1:].transpose(1, 2)).flatten(1)


class TestDegenerateGroup(RuleContract):
    code = "NS111"
    faulty = {
        "a group for each feature of an MLP": lambda: Case(with_groups(16), vectors(2)),
        "instance norm after a global pooling": lambda: Case(pooled(nn.InstanceNorm2d(8)), images(2)),
        "group norm on 1×1 maps": lambda: Case(pooled(nn.GroupNorm(8, 8)), images(2)),
        "instance norm on the last step alone": lambda: Case(LastState(nn.InstanceNorm1d(16)), sequences(2)),
        "layer norm on one feature": lambda: Case(
            nn.Sequential(nn.Linear(8, 1), nn.LayerNorm(1), nn.Linear(1, 2)), vectors(2)
        ),
    }
    healthy = {
        "one group": lambda: Case(with_groups(1), vectors(2)),
        "two values per group": lambda: Case(with_groups(8), vectors(2)),
        "a group for each channel of maps": lambda: Case(pooled(nn.GroupNorm(8, 8), side=4), images(2)),
        "instance norm on maps": lambda: Case(pooled(nn.InstanceNorm2d(8), side=2), images(2)),
        "batch norm after a global pooling": lambda: Case(pooled(nn.BatchNorm2d(8)), images(2)),
        "layer norm on a state": lambda: Case(
            nn.Sequential(LastState(nn.Identity()), nn.LayerNorm(16)), sequences(2)
        ),
        "no such norm": lambda: Case(cnn(), images(2)),
    }


def test_it_is_an_error_that_names_another_number_of_groups():
    (finding,) = normsmith.check(with_groups(16), vectors(2), select=["NS111"])
    assert finding.severity == "error"
    assert finding.fix.code.startswith("nn.GroupNorm(1, 16)")
