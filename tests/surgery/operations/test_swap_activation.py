"""Swapping activations: hidden ones only, wherever they are, and nothing else."""

import pytest
import torch
from tests.contracts.surgery import ALL, SurgeryContract
from tests.surgery.networks import BatchNormAct2d as TimmBatchNormAct2d
from tests.surgery.networks import images
from tests.surgery.small import Gated, mlp
from torch import nn
from torch.nn import functional as F

from normsmith.errors import InputError, SurgeryError
from normsmith.layers import BatchNorm1d, BatchNormAct2d, BatchRenorm1d
from normsmith.surgery import Plan, convert, insert, swap_activation


@pytest.mark.parametrize(
    ("name", "kind"),
    [("relu", nn.ReLU), ("tanh", nn.Tanh), ("sigmoid", nn.Sigmoid), ("identity", nn.Identity)],
)
def test_swap_changes_hidden_activations_only(name, kind):
    model = nn.Sequential(*mlp(nn.GELU), nn.Sigmoid())
    plan = swap_activation(model, name)
    plan.apply()
    assert type(model[1]) is kind
    assert type(model[3]) is kind
    assert type(model[5]) is nn.Sigmoid
    assert [remark.path for remark in plan.kept] == ["5"]


def test_swap_to_the_same_keeps_the_module():
    model = mlp()
    first = model[1]
    swap_activation(model, "relu").apply()
    assert model[1] is first


def test_hooks_mode_and_attached_norms_go_over_to_the_new_activation():
    model, batch = Attribute(), torch.randn(5, 4)
    insert(model, "layer", "after").apply()
    model.act.eval()
    seen = []
    model.act.register_forward_hook(lambda module, *_: seen.append(type(module)))
    plan = swap_activation(model, "tanh", batch=batch)
    plan.apply()
    seen.clear()
    assert not model.act.training
    assert [name for name, _ in model.act.named_children()] == ["norm"]
    torch.testing.assert_close(model(batch), model.second(model.act.norm(torch.tanh(model.first(batch)))))
    plan.revert()
    model(batch)
    assert seen == [nn.Tanh, nn.ReLU]


def test_swap_refuses_another_name_and_a_model_without_activations():
    with pytest.raises(InputError, match="one of relu, tanh, sigmoid, identity"):
        swap_activation(mlp(), "gelu")
    with pytest.raises(SurgeryError, match="found no activation"):
        swap_activation(nn.Sequential(nn.Linear(2, 2)), "relu")


def test_what_an_identity_is_given_is_not_overwritten():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Hardtanh(inplace=True), nn.Linear(8, 2))
    plan = swap_activation(model, "identity")
    assert [refusal.path for refusal in plan.refusals] == ["1"]
    assert "overwrites in place" in plan.refusals[0].reason
    linear = swap_activation(mlp(), "identity").apply()
    x, y = torch.randn(2, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            linear.double()(x) + linear(y), 2 * linear((x + y) / 2), rtol=1e-6, atol=1e-9
        )


class Attribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.second = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)

    def forward(self, x):
        return self.second(self.act(self.first(x)))


class Functional(Attribute):
    def forward(self, x):
        return self.second(F.relu(self.first(x)))


class Branching(Attribute):
    def forward(self, x):
        return self.second(self.act(self.first(x))) if x.sum() > 0 else self.second(self.first(x))


class Picking(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x):
        return self.body[2](self.body[1](self.body[0](x)))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(self.body(x)))


class Ending(Twice):
    def forward(self, x):
        return self.body(self.body(x))


class Listed(Attribute):
    def __init__(self):
        super().__init__()
        self.all = [self.act]


@pytest.mark.parametrize(
    ("model", "path"),
    [(Attribute(), "act"), (Branching(), "act"), (Picking(), "body.1"), (Twice(), "body.1")],
)
def test_activations_in_forwards_of_any_kind_are_swapped(model, path):
    batch = torch.ones(3, 4)
    plan = swap_activation(model, "tanh", batch=batch)
    assert [change.path for change in plan.changes] == [path]
    again = Plan.from_json(model, plan.to_json())
    again.verify(batch)
    again.apply()
    assert type(model.get_submodule(path)) is nn.Tanh


@pytest.mark.parametrize(
    ("model", "path", "words"),
    [
        (Functional(), "", "calls the function relu; make it a module"),
        (Functional(), "act", "does not come by it"),
        (Ending(), "body.1", "the network's output, or a gate, at another call"),
        (Listed(), "act", "all holds it as a plain"),
    ],
)
def test_what_cannot_be_swapped_is_refused_with_the_reason(model, path, words):
    assert words in {remark.path: remark.reason for remark in swap_activation(model, "tanh").refusals}[path]


def test_a_shared_activation_stays_shared():
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 8), shared, nn.Linear(8, 8), shared, nn.Linear(8, 2))
    (change,) = swap_activation(model, "tanh").changes
    assert (change.path, change.also) == ("1", ("3",))


def test_dynamic_code_needs_a_batch():
    with pytest.raises(SurgeryError, match=r"cannot be followed without data .* give a batch"):
        swap_activation(Branching(), "tanh")


def test_gates_stay():
    plan = swap_activation(Gated(), "tanh", batch=images(4, 1)())
    assert [change.path for change in plan.changes] == ["act"]
    assert not plan.refusals


SOME = ("hf-resnet", "hf-efficientnet", "monai-densenet", "parametrized", "tied", "dimensions")


class TestSwap(SurgeryContract):
    @pytest.fixture(params=SOME)
    def network(self, request):
        return ALL[request.param]

    def plan(self, model: nn.Module) -> Plan:
        return swap_activation(model, "tanh", batch=self.batch)


def test_a_norm_on_the_activation_that_was_converted_meanwhile_is_not_lost():
    model, batch = Attribute(), torch.randn(5, 4)
    insert(model, "batch", "after").apply()
    swap = swap_activation(model, "tanh", batch=batch)
    late = swap_activation(model, "sigmoid", batch=batch)
    swap.apply()
    conversion = convert(model, "renorm", total_steps=10)
    conversion.apply()
    with pytest.raises(SurgeryError, match="undo that first"):
        swap.revert()
    with pytest.raises(SurgeryError, match="changed after the plan"):
        late.apply()
    assert type(model.act.norm) is BatchRenorm1d
    conversion.revert()
    swap.revert()
    assert type(model.act) is nn.ReLU
    assert type(model.act.norm) is BatchNorm1d


def test_a_norm_that_was_put_on_the_new_activation_goes_before_it():
    model, batch = Attribute(), torch.randn(5, 4)
    swap = swap_activation(model, "tanh", batch=batch)
    swap.apply()
    insertion = insert(model, "batch", "after")
    insertion.apply()
    with pytest.raises(SurgeryError, match="undo that first"):
        swap.revert()
    model(batch)
    insertion.revert()
    swap.revert()
    assert type(model.act) is nn.ReLU
    model(batch)


@pytest.mark.parametrize("fused", [lambda: BatchNormAct2d(4), lambda: TimmBatchNormAct2d(4, nn.ReLU())])
def test_an_activation_in_one_layer_with_a_norm_is_refused_by_its_layer(fused):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), fused(), nn.Conv2d(4, 2, 3), fused())
    (refusal,) = swap_activation(model, "tanh").refusals  # the last one is the network's output
    assert refusal.path == "1"
    assert refusal.reason == "its activation, relu, is in one layer with a norm; make them two layers"
