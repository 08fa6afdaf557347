"""NS108: batch norms where gradients are taken sample by sample."""

from __future__ import annotations

from typing import Any

import torch
from tests.checks.networks import Residual, cnn, images, mlp, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

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


def clipped_step(model: nn.Module, batches: Any, optimizer: torch.optim.Optimizer) -> None:
    """A step by gradients of each sample, as of differentially private training."""
    x, y = next(iter(batches))
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values: Any, sample: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, values, (sample[None],)), target[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    for name, parameter in model.named_parameters():
        parameter.grad = each[name].mean(0)
    optimizer.step()


PRIVATE_STEP = {"training_step": clipped_step, "level": "deep"}


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
        "a training step by gradients of each sample": lambda: Case(
            cnn(track_running_stats=False), images(2), PRIVATE_STEP
        ),
        "a wrapper": lambda: Case(GradSampleModule(mlp())),
        "an optimizer that clips samples": lambda: private(Residual()),
        "a forward that is mapped over samples": lambda: Case(mlp(), vectors(2), {"forward": over_samples}),
        "gradients of each sample": lambda: Case(Residual(), images(2), {"forward": gradients}),
    }
    healthy = {
        "steps by gradients of each sample, with group norm": lambda: Case(
            nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(2, 8), nn.Linear(8, 2)), vectors(2), PRIVATE_STEP
        ),
        "ordinary steps": lambda: Case(mlp(), vectors(2), {"loss": F.cross_entropy, "level": "deep"}),
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
