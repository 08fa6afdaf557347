"""NS210: norms of which one half is frozen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tests.checks.networks import Residual, cnn, images, mlp, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith
from normsmith import layers, surgery

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, BATCH_NORMS)]


def forgotten_affine() -> nn.Module:
    """A frozen stem whose norm is in evaluation mode, and trains γ and β."""
    model = Residual().train()
    model.stem[0].requires_grad_(False)
    model.stem[1].eval()
    return model


def forgotten_statistics() -> nn.Module:
    """γ and β of one norm do not train, its statistics move, and so does everything else."""
    model = cnn().train()
    model[1].requires_grad_(False)
    return model


def pinned() -> nn.Module:
    """A frozen first layer with a layer of normsmith that is pinned, and γ and β that train."""
    model = mlp().train()
    model[0].requires_grad_(False)
    surgery.freeze(model, "statistics", only="1").apply()
    return model


def all_alike() -> nn.Module:
    model = mlp().train()
    for norm in norms(model):
        norm.requires_grad_(False)
    return model


def tuned(make: Callable[[], nn.Module], batches: list) -> nn.Module:
    """A trained network whose γ and β are frozen, all of them, before it is trained on."""
    model = trained(make(), batches, 2)
    for norm in norms(model):
        norm.requires_grad_(False)
    return trained(model.train(), batches, 1)


def in_evaluation_mode(model: nn.Module | None = None) -> nn.Module:
    """The statistics of all norms are frozen, as detectors are trained."""
    model = (cnn() if model is None else model).train()
    for norm in norms(model):
        norm.eval()
    return model


def statistics_alone() -> nn.Module:
    """The statistics of a trained network are frozen by a call that says so."""
    return surgery.freeze(trained(mlp(), vectors(4), 1).train(), "statistics").apply()


def body() -> nn.Module:
    """A body that is frozen altogether, whose mode follows .train()."""
    model = cnn()
    model[:7].requires_grad_(False)
    return model.train()


def without_norms(model: nn.Module) -> Case:
    """A case with an optimizer of the convolutions and the linear layer alone."""
    own = {id(parameter) for norm in norms(model) for parameter in norm.parameters()}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in own]
    return Case(model, given={"optimizer": torch.optim.SGD(rest, lr=0.1)})


class TestHalfFrozen(RuleContract):
    code = "NS210"
    faulty = {
        "a stem whose γ and β were forgotten": lambda: Case(forgotten_affine()),
        "one norm of a CNN whose statistics were forgotten": lambda: Case(forgotten_statistics()),
        "a pinned layer of normsmith": lambda: Case(pinned()),
        "learned γ and β alone, in all norms": lambda: Case(tuned(Residual, images(4))),
        "all norms alike is information": lambda: Case(all_alike()),
        "norms of a trained network in evaluation mode": lambda: Case(
            in_evaluation_mode(trained(cnn(), images(4), 1))
        ),
        "statistics frozen in evaluation mode is information": lambda: Case(in_evaluation_mode()),
    }
    healthy = {
        "nothing is frozen": lambda: Case(Residual().train()),
        "all four are frozen": lambda: Case(surgery.freeze(cnn().train()).apply()),
        "a body frozen altogether": lambda: Case(body()),
        "γ and β that no optimizer has": lambda: without_norms(in_evaluation_mode()),
        "a whole model in evaluation mode": lambda: Case(mlp().eval()),
        "an averaged copy, no gradients at all": lambda: Case(mlp().train().requires_grad_(False)),
        "no γ and β": lambda: Case(nn.Sequential(nn.Linear(4, 4), layers.BatchNorm1d(4, affine=False))),
    }


def severities(model: nn.Module) -> list[str]:
    return [finding.severity for finding in normsmith.check(model, select=["NS210"])]


def test_who_freezes_on_purpose_is_not_warned():
    assert severities(forgotten_affine()) == ["warning"]
    assert severities(forgotten_statistics()) == ["warning"]
    assert severities(tuned(mlp, vectors(4))) == ["warning", "warning"]
    assert severities(all_alike()) == ["info", "info"]
    assert severities(in_evaluation_mode()) == ["info", "info"]
    assert severities(in_evaluation_mode(trained(cnn(), images(4), 1))) == ["warning", "warning"]
    assert severities(statistics_alone()) == ["info", "info"]
