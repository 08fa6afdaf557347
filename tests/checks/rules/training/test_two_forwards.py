"""NS310: two forwards in training mode before a step."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from tests.checks.networks import Recurrent, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import normsmith
from normsmith import surgery


def discriminator(model, batches, optimizer):
    """Real and generated samples one by one, for one loss."""
    x, _ = next(batches)
    optimizer.zero_grad()
    (model(3 + 0.1 * torch.randn_like(x)).mean() - model(x).mean()).backward()
    optimizer.step()


def one_after_the_other(model, batches, optimizer):
    """A backward for each kind, as in many adversarial networks."""
    x, y = next(batches)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    F.cross_entropy(model(5 * x - 4), 1 - y).backward()
    optimizer.step()


def two_views(model, batches, optimizer):
    x, y = next(batches)
    optimizer.zero_grad()
    one, two = model(x), model(x + 0.01 * torch.randn_like(x))
    (F.cross_entropy(one, y) + F.mse_loss(one, two)).backward()
    optimizer.step()


def parts(model, batches, optimizer):
    """A generator and its critic in one module, whose parts are called by themselves."""
    x, _ = next(batches)
    optimizer.zero_grad()
    fake = model["generator"](torch.randn_like(x)).repeat(1, 4)
    (model["critic"](fake).mean() - model["critic"](x).mean()).backward()
    optimizer.step()


def together(model, batches, optimizer):
    x, _ = next(batches)
    optimizer.zero_grad()
    fake, real = model(torch.cat([3 + torch.randn_like(x), x])).chunk(2)
    (fake.mean() - real.mean()).backward()
    optimizer.step()


def accumulating(model, batches, optimizer):
    for _ in range(2):
        x, y = next(batches)
        F.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()


def sharpness_aware(model, batches, optimizer):
    x, y = next(batches)
    F.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * p.grad)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def with_teacher(model, batches, optimizer):
    """The first forward gives targets, and no gradient."""
    x, _ = next(batches)
    with torch.no_grad():
        target = model(x + 1)
    optimizer.zero_grad()
    F.mse_loss(model(x), target).backward()
    optimizer.step()


def given(training_step):
    return {"training_step": training_step, "level": "deep"}


class TestTwoForwards(RuleContract):
    code = "NS310"
    faulty = {
        "real and generated vectors": lambda: Case(mlp(), vectors(8), given(discriminator)),
        "a backward for each kind of image": lambda: Case(cnn(), images(8), given(one_after_the_other)),
        "two views of a sequence": lambda: Case(Recurrent(), sequences(8), given(two_views)),
        "a critic that is part of a model": lambda: Case(
            nn.ModuleDict({"generator": mlp(), "critic": mlp()}), vectors(8), given(parts)
        ),
    }
    healthy = {
        "both kinds in one forward": lambda: Case(mlp(), vectors(8), given(together)),
        "micro-batches": lambda: Case(mlp(), vectors(8), given(accumulating)),
        "small micro-batches": lambda: Case(mlp(), vectors(16, size=4), given(accumulating)),
        "a sharpness-aware step": lambda: Case(mlp(), vectors(8), given(sharpness_aware)),
        "targets without gradients": lambda: Case(mlp(), vectors(8), given(with_teacher)),
        "frozen norms": lambda: Case(
            surgery.freeze(mlp(), "statistics").apply(), vectors(8), given(discriminator)
        ),
    }


@pytest.mark.parametrize(
    ("step", "severity"), [(discriminator, "warning"), (one_after_the_other, "warning"), (two_views, "info")]
)
def test_it_warns_where_the_inputs_differ(step, severity):
    findings = normsmith.check(mlp(), vectors(8), select=["NS310"], **given(step))
    assert findings[0].path == "1"
    assert findings[0].severity == severity


def test_under_ddp_it_is_an_error():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        findings = normsmith.check(
            DistributedDataParallel(mlp()), vectors(8), select=["NS310"], **given(two_views)
        )
        assert {finding.severity for finding in findings} == {"error"}
        own = DistributedDataParallel(mlp())
        own.broadcast_buffers = False
        findings = normsmith.check(own, vectors(8), select=["NS310"], **given(two_views))
        assert {finding.severity for finding in findings} == {"info"}
    finally:
        dist.destroy_process_group()
