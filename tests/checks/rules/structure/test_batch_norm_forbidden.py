"""NS108: batch norms where gradients are taken sample by sample."""

from __future__ import annotations

from typing import Any

import torch
from tests.checks.networks import Residual, cnn, images, mlp, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

import normsmith


class GradSampleModule(nn.Module):
    """Wraps a model as Opacus does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._module = model

    def forward(self, x: Tensor) -> Tensor:
        return self._module(x)


class DPOptimizer(torch.optim.SGD):
    """Has the name of Opacus' optimizer."""


class PrivateOptimizer(DPOptimizer):
    """A subclass, as those for several devices."""


def prepared(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.grad_sample = None
    return model


def private(model: nn.Module, kind: type[torch.optim.Optimizer] = PrivateOptimizer) -> Case:
    return Case(model, given={"optimizer": kind(model.parameters(), lr=0.1)})


def over_samples(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    return vmap(lambda x: model(x[None])[0])(batch[0]), batch[1]


def gradients(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """Gradients of the output by the input, for each sample."""
    return vmap(grad(lambda x: model(x[None]).sum()))(batch[0]), batch[1]


def over_models(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """An ensemble of two, each with its own weights, on whole batches."""
    parameters, buffers = stack_module_state([model, model])

    def one(p: Any, b: Any) -> Tensor:
        return functional_call(model, (p, b), (batch[0],))

    return vmap(one)(parameters, buffers).mean(0), batch[1]


def frozen() -> nn.Module:
    return normsmith.surgery.freeze(cnn(), "statistics").apply()


class TestBatchNormForbidden(RuleContract):
    code = "NS108"
    faulty = {
        "a wrapper around a CNN": lambda: Case(GradSampleModule(cnn())),
        "a wrapper": lambda: Case(GradSampleModule(mlp())),
        "an optimizer that clips samples": lambda: private(Residual()),
        "a forward that is mapped over samples": lambda: Case(mlp(), vectors(2), {"forward": over_samples}),
        "gradients of each sample": lambda: Case(Residual(), images(2), {"forward": gradients}),
    }
    healthy = {
        "an ordinary training": lambda: private(cnn(), torch.optim.SGD),
        "group norm": lambda: private(nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(2, 8))),
        "frozen to public statistics": lambda: private(frozen()),
        "an ensemble that is mapped over models": lambda: Case(mlp(), vectors(2), {"forward": over_models}),
        "batches": lambda: Case(cnn(), images(2)),
    }


def test_parameters_with_a_gradient_per_sample_tell_it():
    model = prepared(cnn())
    findings = normsmith.check(model, select=["NS108"])
    assert [finding.path for finding in findings] == ["1", "4"]
    assert "grad_sample" in findings[0].message


def test_the_model_in_a_wrapper_is_mended_by_hand():
    findings = normsmith.check(GradSampleModule(mlp()), select=["NS108"])
    assert not findings[0].fix.can_be_applied
