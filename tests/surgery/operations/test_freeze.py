"""Freezing batch norms: what stays still in training, which of them, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.contracts.surgery import ALL, SurgeryContract
from tests.surgery.networks import REAL, BatchNormAct2d, FrozenBatchNorm2d, Network, OwnForward, lived_in
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations

from normsmith import layers
from normsmith.anatomy.forward import call, flat
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery import Plan, freeze


class TestBoth(SurgeryContract):
    def plan(self, model: nn.Module) -> Plan:
        return freeze(model)


class TestAffine(SurgeryContract):
    @pytest.fixture(params=["hf-resnet", "shared norm", "hooked", "tied", "bfloat16"])
    def network(self, request: pytest.FixtureRequest) -> Network:
        return ALL[request.param]

    def plan(self, model: nn.Module) -> Plan:
        return freeze(model, "affine")


def small() -> nn.Sequential:
    return lived_in(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)))  # type: ignore[return-value]


def outputs(model: nn.Module, batch: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return [t.clone() for t in flat(call(model, batch)) if t.is_floating_point()]


@pytest.mark.parametrize("name", REAL)
def test_training_is_as_evaluation_and_moves_no_statistics(name: str) -> None:
    model, batch = REAL[name].model(), REAL[name].batch()
    expected, keys = outputs(model, batch), list(model.state_dict())
    model = freeze(model, "statistics").apply()
    buffers = {key: tensor.clone() for key, tensor in model.named_buffers()}
    found = outputs(model.train(), batch)
    assert list(model.state_dict()) == keys
    for key, tensor in model.named_buffers():
        assert torch.equal(tensor, buffers[key]), key
    if name != "monai-densenet":  # the others have no dropout
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_torchs_norms_are_still_found_as_such() -> None:
    model = freeze(small()).apply().train()
    assert isinstance(model[1], nn.BatchNorm2d)
    assert isinstance(model[1], layers.BatchNorm2d)
    assert model[1].policy == ("running", False)
    nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)).load_state_dict(
        model.state_dict()
    )


@pytest.mark.parametrize(
    ("what", "pinned", "trains"),
    [("statistics", True, True), ("affine", False, False), ("both", True, False)],
)
def test_what_is_frozen(what: Any, pinned: bool, trains: bool) -> None:
    model = freeze(small(), what).apply().train()
    assert (model[1].weight.requires_grad, model[1].bias.requires_grad) == (trains, trains)
    before = model[1].running_mean.clone()
    model(torch.randn(4, 3, 6, 6))
    assert torch.equal(before, model[1].running_mean) is pinned
    assert all(p.requires_grad for p in model[0].parameters())


def test_normsmiths_layers_stay_the_same_objects() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layers.BatchRenormAct2d(4, schedule="keras", track="var"))
    layer, plan = model[1], freeze(model, "statistics")
    assert plan.apply()[1] is layer
    assert layer.policy == ("running", False)
    assert plan.revert()[1] is layer
    assert layer.pinned is None


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    ],
)
@pytest.mark.parametrize("set_to_none", [True, False])
def test_no_optimizer_moves_what_is_frozen(make: Any, set_to_none: bool) -> None:
    """Neither weight decay nor momentum, with a gradient there at the time or zeros in its place."""
    model, batch = small().train(), torch.randn(4, 3, 6, 6)
    optimizer = make(model.parameters())
    for _ in range(2):
        optimizer.zero_grad(set_to_none=set_to_none)
        model(batch).square().mean().backward()
        optimizer.step()
    freeze(model).apply(optimizer=optimizer)
    weight, conv = model[1].weight.detach().clone(), model[0].weight.detach().clone()
    assert any(p is model[1].weight for p in optimizer.param_groups[0]["params"])
    for _ in range(2):
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
        model(batch).square().mean().backward()
    assert torch.equal(model[1].weight, weight)
    assert not torch.equal(model[0].weight, conv)


def test_by_depth_by_name_and_by_a_function() -> None:
    def paths(**chosen: Any) -> list[str]:
        return [change.path for change in freeze(REAL["hf-resnet"].model(), **chosen).changes]

    first = "resnet.embedder.embedder.normalization"
    assert paths(first=1) == [first]
    assert paths(only="resnet.embedder.*") == [first]
    assert paths(only=lambda path, _: path == first) == [first]
    stage = paths(only="resnet.encoder.stages.1.*")
    assert len(stage) == 3
    assert all(path.startswith("resnet.encoder.stages.1.") for path in stage)
    assert paths(last=3) == stage


def test_what_is_frozen_already_is_kept() -> None:
    model = nn.Sequential(
        FrozenBatchNorm2d(4), lived_in(layers.BatchNorm2d(4)), nn.BatchNorm2d(4, affine=False)
    )
    plan = freeze(model)
    assert [(remark.path, remark.reason) for remark in plan.kept] == [
        ("0", "its statistics are frozen already; it has no γ or β that trains")
    ]
    plan.apply()
    assert isinstance(model[0], FrozenBatchNorm2d)
    again = freeze(model)
    assert not again.changes
    assert len(again.kept) == 3


def test_half_of_it_done_the_other_half_is_planned() -> None:
    model = freeze(small(), "affine").apply()
    plan = freeze(model)
    assert [change.after for change in plan.changes] == ["BatchNorm2d(4, frozen)"] * 2
    plan.apply()
    assert model.train()[1].policy == ("running", False)


def test_statistics_that_nobody_gathered_are_remarked() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), layers.BatchNorm1d(3))
    assert all("those it began with" in change.why for change in freeze(model).changes)
    assert not any("those it began with" in change.why for change in freeze(lived_in(model)).changes)


@pytest.mark.parametrize(
    ("norm", "what", "reason"),
    [
        (OwnForward(4), "both", "forward of its own"),
        (nn.BatchNorm2d(4, track_running_stats=False), "statistics", "no running statistics"),
        (nn.LazyBatchNorm2d(), "statistics", "run the model once"),
        (BatchNormAct2d(4, nn.Softplus()), "both", "activation"),
        (parametrizations.weight_norm(nn.BatchNorm2d(4), dim=None), "affine", "parametrized"),
    ],
)
def test_what_cannot_be_frozen_says_why(norm: nn.Module, what: Any, reason: str) -> None:
    plan = freeze(nn.Sequential(norm), what)
    assert reason in plan.refusals[0].reason
    assert not plan.changes
    assert not plan.edits


def test_the_affine_of_a_norm_with_a_forward_of_its_own_can_be_frozen() -> None:
    model = freeze(nn.Sequential(OwnForward(4)), "affine").apply()
    assert not model[0].weight.requires_grad


def test_a_weight_that_another_norm_shares_is_refused_unless_both_freeze() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    model[1].weight = model[0].weight
    assert freeze(model, "affine", first=1).refusals[0].reason == (
        "its γ or β is that of 1 too, which is not to freeze"
    )
    freeze(model, "affine").apply()
    assert not any(p.requires_grad for p in model.parameters())


def test_reverting_gives_the_gradient_back() -> None:
    model = small()
    model(torch.randn(4, 3, 6, 6)).sum().backward()
    gradient = model[1].weight.grad
    plan = freeze(model, "affine")
    plan.apply()
    assert model[1].weight.grad is None
    plan.revert()
    assert model[1].weight.grad is gradient
    assert model[1].weight.requires_grad


@pytest.fixture
def one_rank(tmp_path: Any) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
def test_in_ddp_statistics_freeze_and_the_affine_is_refused() -> None:
    model = DistributedDataParallel(small())
    assert "freeze before wrapping" in freeze(model, "affine").refusals[0].reason
    freeze(model, "statistics").apply()
    for _ in range(2):  # the second forward tells whether the first backward was complete
        model.train()(torch.randn(4, 3, 6, 6)).sum().backward()
    assert model.module[1].policy == ("running", False)


def test_arguments_that_do_not_fit() -> None:
    for wrong in ({"first": 1, "last": 1}, {"first": 0}):
        with pytest.raises(InputError):
            freeze(small(), **wrong)
    with pytest.raises(SurgeryError, match="expected batch norms"):
        freeze(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(SurgeryError, match="none of its 2"):
        freeze(small(), only="stage1.*")


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_part() -> None:
    with pytest.raises(InputError, match="what: expected one of"):
        freeze(small(), "momentum")  # type: ignore[arg-type]
