"""Norms of others and every operation that deals with norms: the right numbers, or named with a true reason."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from tests.surgery.foreign import (
    ByTheBatch,
    MovingAverages,
    RootMeanSquare,
    Sb3BatchRenorm1d,
    TorchrlBatchRenorm1d,
    used,
)
from torch import nn

from normsmith import layers, surgery
from normsmith.errors import SurgeryError

RENORMS = [
    pytest.param(lambda: Sb3BatchRenorm1d(6), id="sb3-contrib"),
    pytest.param(lambda: Sb3BatchRenorm1d(6, affine=False), id="sb3-contrib without affine"),
    pytest.param(lambda: TorchrlBatchRenorm1d(6), id="torchrl"),
    pytest.param(lambda: TorchrlBatchRenorm1d(6, smooth=True), id="torchrl, smooth"),
]


def critic(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), used(norm), nn.ReLU(), nn.Linear(6, 2)).eval()


@pytest.mark.parametrize("make", RENORMS)
@pytest.mark.parametrize(
    ("to", "kind"),
    [
        ("torch", nn.BatchNorm1d),
        ("renorm", layers.BatchRenorm1d),
        ("batch", layers.BatchNorm1d),
        ("frozen", layers.BatchRenorm1d),
    ],
)
def test_renorm_of_other_libraries_becomes_any_batch_norm_with_the_same_numbers(make, to, kind):
    model, x = critic(make()), torch.randn(5, 4)
    before = model(x)
    plan = surgery.convert(model, to=to)
    assert not plan.refusals
    plan.verify(x)
    plan.apply()
    assert type(model[1]) is kind
    torch.testing.assert_close(model(x), before)
    plan.revert()
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("make", RENORMS)
def test_settings_counter_and_parameters_are_those_of_the_library(make):
    model = critic(make())
    old = model[1]
    counter = "steps" if hasattr(old, "steps") else "num_batches_tracked"
    getattr(old, counter).fill_(7)
    optimizer = torch.optim.Adam(model.parameters())
    model.train()(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    has_affine = getattr(old, "affine", True)
    surgery.convert(model, to="renorm").apply(optimizer=optimizer)
    new = model[1]
    assert (new.eps, new.momentum, new.num_batches_tracked.item()) == (old.eps, old.momentum, 8)
    first = getattr(old, "scale", getattr(old, "weight", None))
    assert (new.weight is first) == (new.bias is old.bias) == has_affine
    assert (first in optimizer.state) == has_affine
    end = 100_001 if hasattr(old, "steps") else 10_000
    new.num_batches_tracked.fill_(end)
    assert new.bounds() == (3.0, 5.0)


def test_a_renorm_trains_on_as_torchrls_does_after_its_warm_up():
    theirs = used(TorchrlBatchRenorm1d(6, warmup_steps=10)).train()
    theirs.num_batches_tracked.fill_(10)  # the factor of its warm-up is 1 then, and at no later step
    ours = surgery.convert(nn.Sequential(deepcopy(theirs)), to="renorm").apply()
    x = 3 * torch.randn(16, 6) + 1
    torch.testing.assert_close(ours(x), theirs(x))
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours[0], name), getattr(theirs, name))


def test_torchrls_renorm_takes_its_dimensions_from_the_layer_before_it():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), used(TorchrlBatchRenorm1d(6)))
    plan = surgery.convert(model, to="renorm")
    plan.verify(torch.randn(2, 3, 8, 8))
    assert type(plan.apply()[1]) is layers.BatchRenorm2d


def test_names_that_change_in_the_state_dict_are_told():
    (change,) = surgery.convert(critic(Sb3BatchRenorm1d(6)), to="renorm").changes
    assert "ra_mean, ra_var, steps, scale become running_mean, running_var" in change.why
    assert "unbiased variance" in change.why


def test_a_renorm_that_computes_something_else_is_refused():
    class OtherBatchRenorm(TorchrlBatchRenorm1d):
        def forward(self, x):
            return super().forward(x) + 1

    (refusal,) = surgery.convert(critic(OtherBatchRenorm(6)), to="renorm").refusals
    assert "does not compute batch norm in evaluation" in refusal.reason


UNKNOWN = "MovingAverages is a norm with running statistics, of a class that is not known here"


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(surgery.convert, id="convert"),
        pytest.param(lambda model: surgery.freeze(model, "statistics"), id="freeze"),
    ],
)
def test_a_class_that_nobody_knows_is_named(operation):
    (refusal,) = operation(critic(MovingAverages(6))).refusals
    assert (refusal.path, refusal.reason) == ("1", UNKNOWN)


def test_freezing_the_affine_finds_it_under_any_name():
    for norm in (MovingAverages(6), Sb3BatchRenorm1d(6), TorchrlBatchRenorm1d(6)):
        model = critic(norm)
        surgery.freeze(model, "affine").apply()
        assert not any(p.requires_grad for p in model[1].parameters())
        assert model[0].weight.requires_grad


def test_freezing_statistics_of_a_known_renorm_pins_ours():
    model = critic(Sb3BatchRenorm1d(6))
    x = torch.randn(5, 4)
    before = model(x)
    surgery.freeze(model).apply()
    assert isinstance(model[1], layers.BatchRenorm1d)
    torch.testing.assert_close(model.train()(x), before)


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (MovingAverages(6), "MovingAverages has a forward of its own, whose statistics cannot be measured"),
        (Sb3BatchRenorm1d(6), "is one of sb3-contrib: convert it first"),
        (TorchrlBatchRenorm1d(6), "is one of torchrl: convert it first"),
    ],
)
def test_statistics_of_others_are_not_measured_and_not_passed_over(norm, reason):
    model, batches = critic(norm), [torch.randn(4, 4)]
    with pytest.raises(SurgeryError, match=reason):
        surgery.recalibrate(model, batches)
    with pytest.raises(SurgeryError, match=reason), surgery.adapt(model, prior=0.5):
        pass


def test_after_a_conversion_statistics_are_measured():
    model = surgery.convert(critic(Sb3BatchRenorm1d(6)), to="renorm").apply()
    batches = [torch.randn(16, 4) for _ in range(3)]
    surgery.recalibrate(model, batches).apply()
    inner = model[0](torch.cat(batches))
    torch.testing.assert_close(model[1].running_mean, inner.mean(0), rtol=1e-4, atol=1e-4)


def test_a_warm_start_names_what_is_to_be_converted_first():
    with pytest.raises(SurgeryError, match=r"1: Sb3BatchRenorm1d is no .* of normsmith: convert it first"):
        surgery.warm_start(critic(Sb3BatchRenorm1d(6)), remaining=100)


@pytest.mark.parametrize("norm", [MovingAverages(6), RootMeanSquare(6), ByTheBatch(6), Sb3BatchRenorm1d(6)])
@pytest.mark.parametrize("batch", [None, torch.randn(5, 4)])
def test_insert_and_place_see_that_a_norm_is_there(norm, batch):
    model = critic(norm)
    inserted = surgery.insert(model, "layer", batch=batch)
    assert inserted.changes == ()
    (refusal,) = surgery.place(model, "after", batch=batch).refusals
    assert (refusal.path, "has a forward of its own" in refusal.reason) == ("1", True)
