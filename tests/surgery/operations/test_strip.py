"""Strip: what stays in a norm's place, the bias that comes back, what is refused."""

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contracts.surgery import SurgeryContract
from tests.surgery.networks import HARD, REAL, PlainList
from tests.surgery.small import kinds, mlp, torch_batch_norm
from torch import nn

from normsmith.errors import SurgeryError
from normsmith.surgery import Plan, insert, strip, trace


@settings(max_examples=30, deadline=None)
@given(
    widths=st.lists(st.integers(2, 9), min_size=2, max_size=4),
    where=st.sampled_from(["before", "after"]),
    norm=st.sampled_from(["layer", "group", torch_batch_norm]),
)
def test_strip_undoes_insert_up_to_the_redundant_bias(widths, where, norm):
    layers = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], 2))
    original = copy.deepcopy(model)
    inserted = insert(model, norm, where)
    inserted.apply()
    strip(model).apply()
    assert kinds(model) == kinds(original)
    removed = {change.path for change in inserted.changes if change.path.endswith(".bias")}
    for name, value in original.state_dict().items():
        expected = torch.zeros_like(value) if name in removed else value
        assert torch.equal(model.state_dict()[name], expected), name


def test_strip_gives_back_the_bias_that_the_norm_had():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), nn.ReLU(),
        nn.Conv2d(4, 4, 3, bias=False), nn.ReLU(), nn.BatchNorm2d(4),
    ).double()  # fmt: skip
    model[0].weight.requires_grad_(False)
    plan = strip(model)
    plan.apply()
    first, second, third = (layer for layer in model if isinstance(layer, nn.Conv2d))
    assert torch.equal(first.bias, torch.zeros(4, dtype=torch.float64))
    assert not first.bias.requires_grad
    assert second.bias is None  # its norm had none either
    assert third.bias is None  # the norm is after the activation
    assert kinds(model) == [*["Conv2d", "Identity", "ReLU"] * 2, "Conv2d", "ReLU", "Identity"]
    assert not plan.renamed


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(8), nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.RMSNorm(8), nn.SyncBatchNorm(8)]
)
def test_strip_takes_every_kind_of_norm(norm):
    model = nn.Sequential(nn.Linear(4, 8), norm, nn.ReLU())
    strip(model).apply()
    assert kinds(model) == ["Linear", "Identity", "ReLU"]


def test_strip_of_a_model_without_norms_is_an_empty_plan():
    model = mlp()
    plan = strip(model)
    assert not plan.changes
    assert not plan.refusals
    assert plan.apply() is model


def test_strip_refuses_a_norm_that_does_more():
    class NormAct(nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x).relu()

    plan = strip(nn.Sequential(nn.Linear(4, 8), NormAct(8), nn.Linear(8, 2)))
    assert [(refusal.path, "forward of its own" in refusal.reason) for refusal in plan.refusals] == [
        ("1", True)
    ]


def test_a_norm_that_a_plain_list_holds_too_is_refused():
    model = PlainList()
    plan = strip(model)
    assert [(refusal.path, refusal.reason.split()[0]) for refusal in plan.refusals] == [("norm", "order")]


def test_a_norm_by_name_alone_is_told_for_what_it_is():
    class SomeRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return x * self.weight

    plan = strip(nn.Sequential(nn.Linear(4, 4), SomeRMSNorm()))
    assert not plan.changes
    assert (
        plan.kept[0].reason
        == "SomeRMSNorm is a fixed scale and shift of each channel, in training too: it is no norm"
    )


def test_a_model_that_is_a_norm_becomes_an_identity():
    assert type(strip(nn.BatchNorm1d(3)).apply()) is nn.Identity


def test_a_batch_is_asked_for_where_a_bias_may_have_to_come_back():
    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4, bias=False), nn.LayerNorm(4)

        def forward(self, x):
            return self.norm(self.layer(x)) if x.sum() > -1e9 else x

    with pytest.raises(SurgeryError, match="give a batch"):
        strip(Dynamic())
    model = Dynamic()
    strip(model, batch=torch.ones(2, 4)).apply()
    assert torch.equal(model.layer.bias, torch.zeros(4))


def test_a_layer_that_feeds_others_too_gets_no_bias():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4, bias=False), nn.LayerNorm(4)

        def forward(self, x):
            x = self.layer(x)
            return x + self.norm(x)

    plan = strip(Forked())
    assert [change.path for change in plan.changes] == ["norm"]
    assert [remark.path for remark in plan.kept] == ["layer"]


@pytest.mark.parametrize("name", REAL)
def test_real_networks(name):
    model, batch = REAL[name].model(), REAL[name].batch()
    norms = trace(model, batch).having("norm")
    keys = set(model.state_dict())
    plan = strip(model, batch=batch)
    assert not plan.refusals
    plan.verify(batch)
    plan.apply()
    graph = trace(model, batch)
    assert not graph.having("norm")
    gone = {key for key in keys if key.rpartition(".")[0] in {norm.path for norm in norms}}
    assert set(model.state_dict()) == keys - gone | {c.path for c in plan.changes if c.after == "bias"}


def test_folding_keeps_the_outputs_and_refuses_what_it_cannot_do():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4)
    )
    model(torch.randn(8, 3, 8, 8))
    batch = torch.randn(2, 3, 8, 8)
    before = model.eval()(batch)
    plan = strip(model, fold=True)
    assert [(refusal.path, refusal.reason.split()[0]) for refusal in plan.refusals] == [("4", "GroupNorm")]
    plan.verify(batch)
    plan.apply(partial=True)
    assert type(model[1]) is nn.Identity
    torch.testing.assert_close(model(batch), before, rtol=1e-5, atol=1e-5)
    plan.revert()
    assert Plan.from_json(model, plan.to_json()).refusals == plan.refusals
    assert torch.equal(model(batch), before)


SOME = (
    "hf-levit",
    "monai-densenet",
    "shared norm",
    "used twice",
    "hooked",
    "parametrized",
    "tied",
    "bfloat16",
)


class TestStrip(SurgeryContract):
    @pytest.fixture(params=SOME)
    def network(self, request):
        return {**REAL, **HARD}[request.param]

    def plan(self, model: nn.Module) -> Plan:
        return strip(model, batch=self.batch)
