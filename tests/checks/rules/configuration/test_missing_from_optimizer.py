"""NS207: γ and β that no optimizer trains."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

import torch
from tests.checks.networks import Attention, Residual, cnn, mlp
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith
from normsmith.surgery import insert


def case(model: nn.Module, parameters: Iterable[nn.Parameter] | None = None) -> Case:
    chosen = model.parameters() if parameters is None else parameters
    return Case(model, given={"optimizer": torch.optim.SGD(list(chosen), lr=0.1)})


def matrices() -> Case:
    model = Residual()
    return case(model, [p for p in model.parameters() if p.ndim > 1])


def by_name() -> Case:
    model = Attention()
    return case(model, [p for name, p in model.named_parameters() if "first" not in name])


def inserted() -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    made = case(model)
    insert(model, "layer").apply()
    return made


def copied() -> Case:
    model = mlp()
    return case(deepcopy(model), model.parameters())


def only_gamma() -> Case:
    model = cnn()
    return case(model, [p for name, p in model.named_parameters() if name != "1.bias"])


def head_only() -> Case:
    model = cnn()
    return case(model, model[-1].parameters())


def frozen_by_evaluation() -> Case:
    model = Residual().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return case(model, [p for p in model.parameters() if p.ndim > 1])


def without_gradient() -> Case:
    model = mlp()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.requires_grad_(False)
    return case(model, [p for p in model.parameters() if p.requires_grad])


class TestMissingFromOptimizer(RuleContract):
    code = "NS207"
    faulty = {
        "only matrices, in a residual network": matrices,
        "groups by names, in a transformer": by_name,
        "layer norms that came later": inserted,
        "an optimizer of the model before it was copied": copied,
        "β alone": only_gamma,
    }
    healthy = {
        "all parameters": lambda: case(Residual()),
        "a head alone is trained": head_only,
        "statistics and all are frozen": frozen_by_evaluation,
        "no gradient is wanted": without_gradient,
        "norms without γ and β": lambda: case(mlp(affine=False)),
    }


def test_the_fix_puts_them_beside_their_layer():
    made = matrices()
    optimizer = made.given["optimizer"]
    optimizer.param_groups[0]["lr"] = 0.3
    made.check("NS207").fix(made.model, optimizer=optimizer)
    assert made.check("NS207").passed()
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(made.model.parameters())) - 1  # the head's bias is no norm's
    before = made.model.norm.weight.detach().clone()
    made.model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(made.model.norm.weight, before)


def test_without_an_optimizer_it_is_not_run():
    assert normsmith.check(mlp(), select=["NS207"]).not_run[0].reason == "give optimizer=..."
