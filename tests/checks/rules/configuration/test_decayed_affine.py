"""NS206: weight decay on γ and β."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import Attention, Residual, cnn, mlp
from tests.contracts.rule import Case, RuleContract
from torch import nn


def case(model: nn.Module, decay: float, split: bool = False, kind: type = torch.optim.SGD) -> Case:
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2]},
        {"params": vectors, "weight_decay": 0.0 if split else decay},
    ]
    return Case(model, given={"optimizer": kind(groups, lr=0.1, weight_decay=decay)})


def frozen() -> Case:
    model = cnn()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    return case(model, 1e-4)


def layer_norms() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2))


class TestDecayedAffine(RuleContract):
    code = "NS206"
    faulty = {
        "SGD on a residual network": lambda: case(Residual(), 1e-4),
        "AdamW on a transformer": lambda: case(Attention(), 0.05, kind=torch.optim.AdamW),
        "layer norms": lambda: case(layer_norms(), 0.01),
    }
    healthy = {
        "no decay": lambda: case(mlp(), 0.0),
        "groups that are split": lambda: case(mlp(), 1e-4, split=True),
        "γ and β do not train": frozen,
        "no γ and β": lambda: case(mlp(affine=False), 1e-4),
    }


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_the_fix_splits_the_groups_and_keeps_their_settings(kind):
    made = case(Residual(), 1e-2, kind=kind)
    optimizer = made.given["optimizer"]
    optimizer.param_groups[1]["lr"] = 0.5
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert made.check("NS206").passed()  # information
    made.check("NS206").fix(made.model, optimizer=optimizer)
    assert not made.check("NS206").found
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-2, 1e-2, 0.0]
    assert optimizer.param_groups[2]["lr"] == 0.5
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == held
