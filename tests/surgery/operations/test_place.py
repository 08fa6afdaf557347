"""Place: norms on the other side of their activations, residual blocks in one piece."""

import pytest
import torch
from tests.contracts.surgery import SurgeryContract
from tests.surgery.networks import (
    HARD,
    REAL,
    ByIndex,
    FunctionalResidual,
    SharedNorm,
    UsedTwice,
    images,
    lived_in,
)
from tests.surgery.networks import BatchNormAct2d as TimmBatchNormAct2d
from tests.surgery.small import Net
from tests.surgery.states import state_of
from torch import nn

from normsmith.errors import InputError
from normsmith.layers import BatchNormAct2d
from normsmith.surgery import Plan, insert, place, trace


def network(*, bias=False):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=bias), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    )


def test_in_a_sequential_a_norm_changes_its_position_and_nothing_else():
    model = network()
    keys, norm, x = set(model.state_dict()), model[1], torch.randn(3, 1, 7, 7)
    plan = place(model, "after")
    assert not plan.renamed
    assert [remark.path for remark in plan.kept] == ["4", ""]
    plan.apply()
    assert [name for name, _ in model.named_children()] == ["0", "2", "1", "3", "4"]
    assert model[2] is norm
    assert set(model.state_dict()) == keys | {"0.bias"}
    assert torch.equal(model[0].bias, torch.zeros(4))
    expected = norm.eval()(model[0](x).relu())
    assert torch.equal(model[:3](x), expected)


def test_there_and_back_again():
    model = network(bias=True)
    model.register_buffer("mark", torch.zeros(1))
    before = state_of(model)
    there = place(model, "after")
    there.apply()
    back = place(model, "before")
    back.apply()
    assert [name for name, _ in model.named_children()] == ["0", "1", "2", "3", "4"]
    assert model[0].bias is None  # after it a mean is subtracted
    back.revert()
    there.revert()
    assert state_of(model) == before


def test_elsewhere_a_norm_becomes_a_child_of_what_is_beside_it():
    model, batch = ByIndex(), images(8)()
    norm = model.norms[0]
    norm.register_forward_hook(lambda *_: None)
    plan = place(model, "after", batch=batch)
    assert plan.renamed == {"norms.0": "convolutions.1.input_norm"}
    assert [refusal.path for refusal in plan.refusals] == ["norms.1"]
    plan.apply(partial=True)
    assert model.convolutions[1].input_norm is norm
    assert len(norm._forward_hooks) == 1
    assert type(model.norms[0]) is nn.Identity
    assert not model.norms[0]._forward_hooks


@pytest.mark.parametrize(
    ("model", "path", "words"),
    [
        (FunctionalResidual(), "norm", "cross the addition at the end of a residual block, x + norm(f(x))"),
        (SharedNorm(), "norm", "under several names"),
        (UsedTwice(), "block.1", "calls it 2 times"),
    ],
)
def test_what_cannot_move_is_refused_with_the_reason(model, path, words):
    keys = list(model.state_dict())
    plan = place(model, "after", batch=images(8)())
    assert words in {refusal.path: refusal.reason for refusal in plan.refusals}[path]
    assert not plan.changes
    assert list(model.state_dict()) == keys


def test_an_activation_that_feeds_a_skip_too_keeps_its_norm_after_it():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.norm, self.conv = nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            x = self.act(x)
            return x + self.conv(self.norm(x))

    plan = place(nn.Sequential(nn.Conv2d(3, 3, 1), Block()), "before")
    assert "goes to others too" in plan.refusals[0].reason
    plan = place(nn.Sequential(nn.Conv2d(3, 3, 1), Block()), "after")
    assert "no activation" in plan.kept[0].reason or "already" in plan.kept[0].reason


def test_post_norm_and_pre_norm_stay_what_they_are():
    class PostNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.inner, self.act = nn.LayerNorm(4), nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            return self.norm(x + self.act(self.inner(x)))

    plan = place(PostNorm(), "before")
    assert not plan.changes
    assert "function add" in plan.kept[0].reason


def test_a_norm_between_two_activations_is_that_of_the_second():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 2, 1),
    )
    plan = place(model, "before")
    assert not plan.changes
    assert [remark.reason for remark in plan.kept] == ["it is before its activation already"] * 2


def test_inserted_norms_move_and_leave_nothing():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    insert(model, "layer").apply()
    place(model, "after").apply()
    assert [name for name, _ in model.named_children()] == ["0", "1", "1_norm", "2"]


def test_another_side_is_refused():
    with pytest.raises(InputError, match="'before' or 'after'"):
        place(network(), "beside")


@pytest.mark.parametrize("name", REAL)
def test_real_networks_move_what_is_beside_an_activation(name):
    model, batch = REAL[name].model(), REAL[name].batch()
    plan = place(model, "after", batch=batch)
    before = trace(model, batch)
    paths = {event.path for event in before.having("norm")}
    moved = [change.path for change in plan.changes if change.path in paths]
    assert moved
    plan.verify(batch)
    plan.apply(partial=True)
    graph = trace(model, batch)
    assert {e.module for e in graph.having("norm")} == {e.module for e in before.having("norm")}
    assert len(graph.residuals) == len(before.residuals)
    for path in moved:
        norm = model.get_submodule(plan.renamed.get(path, path))
        assert all(later.role != "activation" for e in graph.of(norm) for later in graph.consumers(e))


SOME = ("hf-resnet", "monai-unet", "by index", "hooked", "parametrized", "tied", "dimensions")


class TestPlace(SurgeryContract):
    partial = True

    @pytest.fixture(params=SOME)
    def network(self, request):
        return {**REAL, **HARD}[request.param]

    def plan(self, model: nn.Module) -> Plan:
        return place(model, "after", batch=self.batch)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: x.mean((2, 3)),
        lambda x: x.amax((-2, -1)),
        lambda x: x.mean(-1).mean(-1),
        lambda x: x.flatten(2).mean(-1),
        lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1),
        lambda x: torch.nn.functional.avg_pool2d(x, 5).view(len(x), -1),
        lambda x: x.sum((2, 3)),
    ],
)
def test_after_a_function_a_norm_comes_to_the_layer_that_takes_what_is_pooled(pool):
    model = Net(
        lambda net, x: net.head(pool(net.norm(net.conv(x)).relu())),
        conv=nn.Conv2d(1, 4, 3), norm=nn.BatchNorm2d(4), head=nn.Linear(4, 2),
    )  # fmt: skip
    model = lived_in(model).eval()
    x, norm = torch.randn(6, 1, 7, 7), model.norm
    plan = place(model, "after", batch=x)
    assert plan.renamed == {"norm": "head.input_norm"}
    plan.apply()
    pooled = pool(model.conv(x).relu())
    expected = nn.functional.linear(
        norm(pooled[..., None, None])[..., 0, 0], model.head.weight, model.head.bias
    )
    torch.testing.assert_close(model(x), expected)
    assert place(model, "before", batch=x).renamed == {"head.input_norm": "norm"}
    plan.revert()


@pytest.mark.parametrize("by", ["batch", "symbols"])
def test_what_mixes_channels_or_needs_positions_is_refused(by):
    def model(norm, pool, features=4):
        return Net(
            lambda net, x: net.head(pool(net.norm(net.conv(x)).relu())),
            conv=nn.Conv2d(1, 4, 3), norm=norm, head=nn.Linear(features, 2),
        )  # fmt: skip

    x = torch.randn(6, 1, 7, 7) if by == "batch" else None
    mixing = model(nn.BatchNorm2d(4), lambda x: x.flatten(1), 100)
    assert "the function flatten" in place(mixing, "after", batch=x).refusals[0].reason
    over_channels = model(nn.BatchNorm2d(4), lambda x: x.mean((1, 3)), 5)
    assert "the function mean" in place(over_channels, "after", batch=x).refusals[0].reason
    for norm in (nn.InstanceNorm2d(4), nn.GroupNorm(2, 4)):
        (refusal,) = place(model(norm, lambda x: x.mean((2, 3))), "after", batch=x).refusals
        assert refusal.reason.endswith(
            "takes results of 4 dimensions here, and after the activation they have 2"
        )


def test_norms_that_hooks_apply_to_channels_that_are_last_move_too():
    model = Net(
        lambda net, x: net.end(net.act(net.lin(x))), lin=nn.Linear(3, 4), act=nn.ReLU(), end=nn.Linear(4, 2)
    )
    x = torch.randn(5, 7, 3)
    insert(model, "batch", "before", batch=x).apply()
    assert model.lin.bias is None
    norm, plan = model.lin.norm, place(model, "after", batch=x)
    assert plan.renamed == {"lin.norm": "act.norm"}
    plan.apply()
    expected = model.end(norm(nn.functional.linear(x, model.lin.weight).relu().movedim(-1, 1)).movedim(1, -1))
    torch.testing.assert_close(model(x), expected)
    assert torch.equal(model.lin.bias, torch.zeros(4))
    assert place(model, "before", batch=x).renamed == {"act.norm": "lin.norm"}


class Bottleneck(nn.Module):
    """x + norm(f(x)), without an activation after the sum, as MobileNet has it; `act`: with one."""

    def __init__(self, act: bool) -> None:
        super().__init__()
        self.stem, self.layer, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.act, self.head = nn.ReLU() if act else nn.Identity(), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.act(x + self.norm(self.layer(x))))


def test_a_norm_before_a_sum_stays_unless_an_activation_follows_the_sum():
    plan = place(Bottleneck(act=False), "after")
    assert not plan.refusals
    assert plan.kept[0].path == "norm"
    assert "no activation is right after it, but the function add" in plan.kept[0].reason
    (refusal,) = place(Bottleneck(act=True), "after").refusals
    assert "cross the addition" in refusal.reason


@pytest.mark.parametrize("fused", [lambda: BatchNormAct2d(4), lambda: TimmBatchNormAct2d(4, nn.ReLU())])
def test_a_norm_in_one_layer_with_its_activation_is_before_it(fused):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), fused(), nn.Conv2d(4, 2, 3))
    (refusal,) = place(model, "after").refusals
    assert refusal.path == "1"
    assert "in one layer with its activation, relu; strip leaves that one" in refusal.reason
    plan = place(model, "before")
    assert not plan.refusals
    assert "before its activation already, relu" in plan.kept[0].reason
