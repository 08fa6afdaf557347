"""NS304: statistics that are updated twice."""

from __future__ import annotations

import torch
from tests.checks.networks import Attention, Recurrent, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import normsmith
from normsmith import surgery


class Checkpointed(nn.Module):
    """A body whose forward is computed again in the backward."""

    def __init__(self, body: nn.Module, reentrant: bool = False):
        super().__init__()
        self.body, self.reentrant = body, reentrant

    def forward(self, x):
        return checkpoint(
            self.body, x.requires_grad_() if self.reentrant else x, use_reentrant=self.reentrant
        )


class InSegments(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = cnn()

    def forward(self, x):
        return checkpoint_sequential(self.body, 2, x, use_reentrant=False)


def with_metric(model, batches, optimizer):
    x, y = next(batches)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def with_logging(model, batches, optimizer):
    """The second output is only looked at."""
    x, y = next(batches)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    logged = model(x).mean().item()
    loss.backward()
    optimizer.step()
    return logged


def with_metric_in_evaluation(model, batches, optimizer):
    x, y = next(batches)
    optimizer.zero_grad()
    F.cross_entropy(model.train()(x), y).backward()
    optimizer.step()
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).float().mean())


def sharpness_aware(model, batches, optimizer):
    """Two backwards on the same samples, the second with weights uphill."""
    x, y = next(batches)
    F.cross_entropy(model(x), y).backward()
    uphill = [0.05 * p.grad for p in model.parameters()]
    with torch.no_grad():
        for p, away in zip(model.parameters(), uphill, strict=True):
            p.add_(away)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for p, away in zip(model.parameters(), uphill, strict=True):
            p.sub_(away)
    optimizer.step()


def replayed(model, batches, optimizer):
    """Two updates on one batch."""
    x, y = next(batches)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def two_views(model, batches, optimizer):
    """Both outputs for the same input are in the loss, as with dropout for consistency."""
    x, y = next(batches)
    optimizer.zero_grad()
    one, two = model(x), model(x)
    (F.cross_entropy(one, y) + F.mse_loss(one, two)).backward()
    optimizer.step()


def other_samples(model, batches, optimizer):
    """A teacher's targets for other samples, without gradients."""
    (x, y), (other, _) = next(batches), next(batches)
    optimizer.zero_grad()
    with torch.no_grad():
        model(other)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


DEEP = {"loss": F.cross_entropy, "level": "deep"}


def given(training_step):
    return {"training_step": training_step, "level": "deep"}


class TestRepeatedUpdate(RuleContract):
    code = "NS304"
    faulty = {
        "a checkpointed MLP": lambda: Case(Checkpointed(mlp()), vectors(4), DEEP),
        "segments of a CNN": lambda: Case(InSegments(), images(4), DEEP),
        "with reentry": lambda: Case(Checkpointed(Attention(), reentrant=True), sequences(4), DEEP),
        "a metric after the step": lambda: Case(Recurrent(), sequences(4), given(with_metric)),
        "the second forward of a sharpness-aware step": lambda: Case(
            cnn(), images(4), given(sharpness_aware)
        ),
        "an output for the log": lambda: Case(mlp(), vectors(4), given(with_logging)),
    }
    healthy = {
        "checkpointed layers of ours": lambda: Case(
            Checkpointed(surgery.convert(mlp(), "batch").apply()), vectors(4), DEEP
        ),
        "a metric in evaluation": lambda: Case(mlp(), vectors(4), given(with_metric_in_evaluation)),
        "frozen norms": lambda: Case(surgery.freeze(mlp()).apply(), vectors(4), given(with_metric)),
        "a new update on the same samples": lambda: Case(mlp(), vectors(4), given(replayed)),
        "two views": lambda: Case(mlp(), vectors(4), given(two_views)),
        "other samples": lambda: Case(mlp(), vectors(4), given(other_samples)),
        "the usual step": lambda: Case(cnn(), images(4), DEEP),
    }


def test_it_tells_checkpointing_from_an_extra_forward():
    findings = normsmith.check(Checkpointed(mlp()), vectors(4), select=["NS304"], **DEEP)
    assert [finding.path for finding in findings] == ["body.1", "body.4"]
    assert findings[0].cause == "activation checkpointing"
    findings = normsmith.check(mlp(), vectors(4), select=["NS304"], **given(with_logging))
    assert "again 1 time in" in findings[0].message
    assert not findings[0].fix.can_be_applied
