"""Pruned networks compute what the zeroed ones do, in many architectures; optimizers and copies follow; bad input."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.surgery.operations.prune.networks import (
    chain,
    concatenated,
    difference,
    lived_in,
    mobile,
    residual,
    streamed,
    zeroed,
)
from torch import nn

from normsmith.errors import InputError, SurgeryError
from normsmith.layers import BatchNorm2d, BatchNormAct2d, BatchRenorm2d
from normsmith.surgery import Plan, prune

X = torch.randn(2, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def renorm(channels):
    return BatchRenorm2d(channels, total_steps=10)


def fused(channels):
    return BatchNormAct2d(channels, activation="silu")


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(model, before):
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "make",
    [
        chain,  # act(β) ≠ 0 into a layer without a bias, and through a pooling and flatten into one with
        lambda: chain(BatchNorm2d),
        lambda: chain(renorm),
        lambda: chain(fused, nn.Identity),
        residual,  # only where the norms of both branches are small
        mobile,  # a padded depthwise convolution between two norms is no border; x·gate with act(β) = 0
        concatenated,
        streamed,  # the stream varies, but who reads it does not
    ],
)
def test_outputs_are_those_of_the_zeroed_network(make):
    model = lived_in(make())
    before = state(model)
    plan = prune(model, X, share=0.4)
    assert len(plan.changes) > 3
    assert plan.warnings == ()
    assert difference(model, plan, X, partial=True) < 1e-12
    assert_same(model, before)


def test_the_saving_is_said_and_true():
    model = lived_in(chain())
    plan = prune(model, X, share=0.5)
    plan.apply()
    conv = model[3]
    assert conv.weight.shape == (conv.out_channels, conv.in_channels, 3, 3)
    parameters = sum(p.numel() for p in model.parameters())
    macs = 2 * sum((model[0].weight.numel() * 49, conv.weight.numel() * 25, model[8].weight.numel()))
    assert f"→ {parameters:,}, multiply-adds" in plan.title
    assert plan.title.endswith(f"→ {macs:,}")


def test_a_group_goes_only_if_all_of_its_norms_are_small():
    model = lived_in(residual())
    for norm, values in ((model.bn2, [0.0, 0, 1, 1, 1, 1]), (model.proj_bn, [0.0, 1, 0, 1, 1, 1])):
        norm.weight.data = torch.tensor(values).double()
    model.bn4.weight.data = torch.tensor([0.0, 0, 0, 0, 1, 1]).double()
    plan = prune(model, X, below=1e-3)
    removed = plan.operation.arguments["removed"]
    assert removed["bn2"] == removed["proj_bn"] == removed["bn4"] == [0]
    assert plan.expects.evaluation == "same"
    plan.verify(X)


def test_zero_padding_is_refused_or_called_approximate():
    model = lived_in(chain(padding=1))
    refused = prune(model, X, share=0.5)
    assert all("meets zero padding on the way into 3" in refusal.reason for refusal in refused.refusals)
    assert refused.refusals
    with pytest.raises(SurgeryError, match=r"apply\(partial=True\)"):
        refused.apply()
    allowed = prune(model, X, share=0.5, approximate="allow")
    assert [remark.path for remark in allowed.warnings] == ["3"]
    assert 1e-6 < difference(model, allowed, X) < 1


def test_padding_is_exact_where_nothing_is_left_behind():
    model = lived_in(chain(act=nn.ReLU, padding=1))
    for norm in (model[1], model[4]):
        norm.bias.data = -norm.bias.data.abs()
    plan = prune(model, X, share=0.5)
    assert (plan.refusals, plan.warnings) == ((), ())
    assert difference(model, plan, X) < 1e-12


def test_another_padding_goes_on_as_the_constant():
    model = lived_in(
        nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, padding=1, padding_mode="replicate")
        )
    )
    plan = prune(model, X, share=0.5)
    assert difference(model, plan, X) < 1e-12


def test_the_optimizer_follows_with_the_state_of_what_stays():
    model = lived_in(chain()).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(X).sum().backward()
    optimizer.step()
    before, average = state(model), optimizer.state[model[0].weight]["exp_avg"].clone()
    old = model[0].weight
    plan = prune(model, X, share=0.4)
    plan.apply(optimizer=optimizer)
    keep = [i for i in range(8) if i not in plan.operation.arguments["removed"]["1"]]
    assert torch.equal(optimizer.state[model[0].weight]["exp_avg"], average[keep])
    assert model[3].bias is not None  # what β did; it joins β's group
    assert "3.bias" in plan.joined
    model(X).sum().backward()
    optimizer.step()
    plan.revert()
    assert model[0].weight is old
    assert optimizer.state[old]["step"] == 1
    for name in ("0.weight", "0.bias", "1.weight", "1.running_var"):
        assert torch.equal(model.state_dict()[name], before[name])
    model(X).sum().backward()
    optimizer.step()


def test_copies_lose_the_same_channels_each_with_its_own_beta():
    model = lived_in(chain())
    ema = copy.deepcopy(model)
    ema[1].bias.data += 1
    plan = prune(model, X, share=0.4)
    expected = zeroed(ema, plan)(X)
    plan.apply(ema=ema)
    torch.testing.assert_close(ema(X), expected)


def test_a_plan_goes_to_another_process():
    model = lived_in(residual())
    plan = prune(model, X, share=0.4)
    there = Plan.from_json(copy.deepcopy(model), plan.to_json()).apply(partial=True)
    torch.testing.assert_close(there(X), plan.apply(partial=True)(X))


def test_a_layer_never_loses_all_of_its_channels():
    model = lived_in(chain())
    model[1].weight.data[:] = torch.linspace(1e-6, 8e-6, 8)
    plan = prune(model, X, below=1e-3)
    assert plan.operation.arguments["removed"]["1"] == list(range(7))
    assert [remark.path for remark in plan.kept] == ["0"]


def test_what_reaches_the_output_is_refused_by_name():
    model = lived_in(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    plan = prune(model, X, share=0.5)
    assert [(one.path, one.reason) for one in plan.refusals] == [
        ("1", "2 channels cannot go: the model returns them")
    ]


class Counting(nn.Module):
    """A forward that counts on its channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        y = self.norm(self.conv(x)).mean((2, 3))
        return self.last(y.reshape(-1, 4))


def test_a_forward_that_counts_on_its_channels_fails_before_anything_is_changed():
    model = lived_in(Counting())
    before = state(model)
    with pytest.raises(SurgeryError, match=r"the smaller network .*leave norms out with only="):
        prune(model, X, share=0.5)
    assert_same(model, before)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.main, self.aside = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return self.main(y) + self.aside(y) if self.training else self.main(y)


def test_a_head_for_training_alone_is_refused():
    plan = prune(lived_in(Heads()), X, share=0.5)
    assert [one.path for one in plan.refusals] == ["aside"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected share or below, got both or neither"),
        ({"share": 0.5, "below": 1.0}, "got both or neither"),
        ({"share": 0.0}, "share: expected a number above 0 and below 1, got 0.0"),
        ({"share": 1.0}, "below 1, got 1.0"),
        ({"share": float("nan")}, "got nan"),
        ({"share": "0.5"}, "below 1, got '0.5'"),
        ({"below": -1.0}, "below: expected a number above 0, got -1.0"),
        ({"below": torch.ones(2)}, "below: expected a number above 0, got tensor"),
        ({"share": 0.5, "approximate": "maybe"}, "approximate"),
    ],
)
def test_bad_input_is_refused(options, message, unchecked):
    model = lived_in(chain())
    before = state(model)
    with pytest.raises(InputError, match=message):
        prune(model, X, **options)
    assert_same(model, before)


def test_without_an_example_or_with_a_gamma_that_is_not_finite_nothing_is_chosen():
    model = lived_in(chain())
    with pytest.raises(InputError, match="prune: expected an example as batch"):
        prune(model, None, share=0.5)
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    norm.weight.data[0] = float("nan")
    with pytest.raises(SurgeryError, match="expected finite γ to choose channels by, got others in 1 of"):
        prune(model, X, share=0.5)


def test_models_without_gamma_are_refused_with_their_norms():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 2, 1)).double()
    with pytest.raises(SurgeryError, match="batch norms with γ that the forward calls, got 1: it has no γ"):
        prune(model, X, share=0.5)
    with pytest.raises(SurgeryError, match="prune: expected batch norms in Linear"):
        prune(nn.Linear(2, 2), X, share=0.5)


def test_some_norms_only():
    model = lived_in(chain())
    plan = prune(model, X, share=0.5, only="4")
    assert plan.operation.arguments["removed"].keys() == {"4"}
    assert difference(model, plan, X) < 1e-12
