"""Optimizers follow a model through a change: groups, state and names, and back again."""

import copy

import pytest
import torch
from tests.contracts.surgery import groups, step
from tests.surgery.small import BATCH, add_norms, normed, plain
from tests.surgery.states import state_of
from torch import nn

import normsmith
from normsmith import surgery
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery import Plan, convert
from normsmith.surgery.plans.edits import ParameterEdit
from normsmith.surgery.plans.optimizers import Following


def names_in(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names.get(id(p), "?") for p in group["params"]] for group in optimizer.param_groups]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_new_parameters_join_their_neighbours_and_removed_ones_go(kind):
    model = plain()
    optimizer = kind(
        [
            {"params": [*model[0].parameters(), *model[2].parameters()], "lr": 0.1},
            {"params": model[4].parameters()},
        ],
        lr=0.01,
    )
    step(model, BATCH, optimizer)
    before = groups(optimizer)
    weight_state = copy.deepcopy(optimizer.state[model[0].weight])
    plan = add_norms(model)
    plan.apply(optimizer=optimizer)
    assert names_in(optimizer, model) == [
        ["0.weight", "1_norm.weight", "1_norm.bias", "2.weight", "3_norm.weight", "3_norm.bias"],
        ["4.weight", "4.bias"],
    ]
    assert all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(weight_state[name]))
        for name, value in optimizer.state[model[0].weight].items()
        if value is not None
    )
    assert len(optimizer.state) == len(before) - 2  # those of the two biases that went
    plan.revert()
    assert groups(optimizer) == before


def test_a_second_step_then_reverting_keeps_what_was_trained():
    model = plain()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    step(model, BATCH, optimizer)
    bias = model[0].bias
    kept = bias.detach().clone(), copy.deepcopy(optimizer.state[bias])
    plan = add_norms(model)
    plan.apply(optimizer=optimizer)
    step(model, BATCH, optimizer)
    trained = model[0].weight.detach().clone()
    plan.revert()
    assert torch.equal(model[0].weight, trained)
    assert model[0].bias is bias
    assert torch.equal(bias, kept[0])
    assert torch.equal(optimizer.state[bias]["exp_avg"], kept[1]["exp_avg"])
    assert names_in(optimizer, model) == [[name for name, _ in model.named_parameters()]]
    assert len(optimizer.state) == 6
    step(model, BATCH, optimizer)


def test_each_of_several_optimizers_keeps_to_its_part():
    model = plain()
    body = torch.optim.SGD([*model[0].parameters(), *model[2].parameters()], lr=0.1)
    head = torch.optim.SGD(model[4].parameters(), lr=0.1)
    add_norms(model).apply(optimizer=[body, head])
    held = [names_in(optimizer, model)[0] for optimizer in (body, head)]
    assert held == [
        ["0.weight", "1_norm.weight", "1_norm.bias", "2.weight", "3_norm.weight", "3_norm.bias"],
        ["4.weight", "4.bias"],
    ]


def test_state_goes_to_a_successor():
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step(model, BATCH, optimizer)
    old, momentum = model[0].weight, optimizer.state[model[0].weight]["momentum_buffer"].clone()
    new = nn.Parameter(old.detach() * 2)
    plan = Plan("twice", model, edits=(ParameterEdit(model[0], "weight", old, new, keeps_state=True),))
    plan.apply(optimizer=optimizer)
    assert torch.equal(optimizer.state[new]["momentum_buffer"], momentum)
    assert old not in optimizer.state
    assert optimizer.param_groups[0]["params"][0] is new
    step(model, BATCH, optimizer)
    later = optimizer.state[new]["momentum_buffer"].clone()
    plan.revert()
    assert torch.equal(optimizer.state[old]["momentum_buffer"], later)
    assert new not in optimizer.state


def test_an_optimizer_with_one_history_for_all_is_refused():
    model = plain()
    optimizer = torch.optim.LBFGS(model.parameters())
    before = state_of(model)
    with pytest.raises(SurgeryError, match="LBFGS"):
        add_norms(model).apply(optimizer=optimizer)
    assert state_of(model) == before
    normed_model = normed()
    convert(normed_model, to="renorm", schedule="keras", track="var").apply(
        optimizer=torch.optim.LBFGS(normed_model.parameters())
    )


@pytest.mark.parametrize(
    "apply",
    [
        lambda model, optimizer: surgery.convert(model, "group").apply(optimizer=optimizer),
        lambda model, optimizer: normsmith.convert(model, "group", optimizer=optimizer),
        lambda model, optimizer: surgery.swap_activation(model, "tanh").apply(optimizer=optimizer),
    ],
    ids=["a plan", "normsmith.convert", "a plan without new parameters"],
)
def test_an_optimizer_of_another_network_is_refused(apply):
    model = normed()
    own, foreign = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (model, copy.deepcopy(model)))
    before = state_of(model), groups(own), groups(foreign)
    with pytest.raises(
        InputError, match=r"optimizer: expected one .* this Sequential, got SGD with 6 parameters, none"
    ):
        apply(model, foreign)
    with pytest.raises(InputError, match="optimizer 2 of 2"):
        apply(model, [own, foreign])
    assert (state_of(model), groups(own), groups(foreign)) == before
    apply(model, own)


def test_new_vectors_join_the_biases_where_weights_are_apart():
    model = plain()
    weights = [p for p in model.parameters() if p.dim() > 1]
    biases = [p for p in model.parameters() if p.dim() == 1]
    one = torch.optim.AdamW(
        [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    )
    plan = add_norms(model)
    plan.apply(optimizer=one)
    matrices = ["0.weight", "2.weight", "4.weight"]
    vectors = ["1_norm.weight", "1_norm.bias", "3_norm.weight", "3_norm.bias", "4.bias"]
    assert names_in(one, model) == [matrices, vectors]
    if not hasattr(torch.optim, "Muon"):  # of torch 2.9
        return
    plan.revert()
    muon, rest = torch.optim.Muon(weights), torch.optim.SGD(biases, lr=0.1)
    plan.apply(optimizer=[muon, rest])
    assert (names_in(muon, model), names_in(rest, model)) == ([matrices], [vectors])


def test_names_that_an_optimizer_was_given_follow():
    model = plain()
    optimizer = torch.optim.Adam(
        [
            {"params": [("mine", model[0].weight), ("0.bias", model[0].bias)]},
            {"params": [(name, p) for name, p in model.named_parameters() if name[0] in "24"]},
        ]
    )
    step(model, BATCH, optimizer)
    before, saved = groups(optimizer), optimizer.state_dict()
    names = [list(group["param_names"]) for group in saved["param_groups"]]
    plan = add_norms(model)
    plan.apply(optimizer=optimizer)
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["mine", "1_norm.weight", "1_norm.bias"],
        names_in(optimizer, model)[1],
    ]
    assert [group["param_names"] for group in saved["param_groups"]] == names
    plan.revert()
    assert groups(optimizer) == before
    assert [group["param_names"] for group in optimizer.param_groups] == names


def test_names_of_parameters_that_move_follow():
    class Block(nn.ModuleDict):
        def forward(self, x):
            return self["act"](self["norm"](self["layer"](x)))

    parts = {"layer": nn.Linear(4, 4), "norm": nn.LayerNorm(4, bias=False), "act": nn.ReLU()}
    model = nn.Sequential(Block(parts), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
    plan = surgery.place(model, "after", batch=BATCH)
    plan.apply(optimizer=optimizer, partial=True)
    assert plan.renamed
    assert optimizer.param_groups[0]["param_names"] == names_in(optimizer, model)[0]


# Following by itself: the model is changed by hand.


def apart(model: nn.Module, path: str) -> torch.optim.Optimizer:
    """An optimizer whose second group has the parameters under a path, the first one all others."""
    named = list(model.named_parameters())
    inside = [p for name, p in named if name.startswith(path)]
    others = [p for name, p in named if not name.startswith(path)]
    return torch.optim.SGD([{"params": others}, {"params": inside}], lr=0.1, momentum=0.9)


def test_a_new_parameter_joins_the_group_of_the_one_whose_name_it_has():
    model = plain()
    optimizer = apart(model, "2.bias")
    following = Following([optimizer], model)
    model[2].bias = nn.Parameter(torch.ones(8))
    following.update(model, {}, {})
    assert names_in(optimizer, model) == [
        ["0.weight", "0.bias", "2.weight", "4.weight", "4.bias"],
        ["2.bias"],
    ]


@pytest.mark.parametrize("is_replacement", [True, False])
def test_a_replacement_of_another_shape_stays_in_the_group(is_replacement):
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, bias=False), nn.Linear(4, 2))
    optimizer = apart(model, "1")
    following = Following([optimizer], model)
    old, model[1] = model[1], nn.Linear(4, 4, bias=False)
    following.update(model, {}, {old: model[1]} if is_replacement else {})
    assert ["1.weight" in group for group in names_in(optimizer, model)] == [
        not is_replacement,
        is_replacement,
    ]


def test_a_new_parameter_of_several_names_joins_once():
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    following = Following([optimizer], model)
    model[0].bias = model[2].bias = nn.Parameter(torch.ones(8))
    following.update(model, {}, {})
    (held,) = [group["params"] for group in optimizer.param_groups]
    assert sum(p is model[0].bias for p in held) == 1


def test_a_new_parameter_without_neighbours_in_an_optimizer_joins_none():
    model, other = plain(), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([other], lr=0.1)
    following = Following([optimizer], model)
    model[0].bias = nn.Parameter(torch.ones(8))
    following.update(model, {}, {})
    assert optimizer.param_groups[0]["params"] == [other]


def test_a_frozen_part_of_the_model_does_not_keep_new_parameters_out():
    model = plain()
    optimizer = torch.optim.SGD(model[4].parameters(), lr=0.1)
    following = Following([optimizer], model)
    model.append(nn.LayerNorm(2))
    following.update(model, {}, {})
    assert names_in(optimizer, model) == [["4.weight", "4.bias", "5.weight", "5.bias"]]


def test_only_a_state_that_is_there_is_handed_over():
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    following = Following([optimizer], model)
    old = model[0].weight
    model[0].weight = nn.Parameter(torch.ones(8, 4))
    following.update(model, {old: model[0].weight}, {})
    assert len(optimizer.state) == 0  # no step was taken yet


def test_a_model_that_stays_as_it_is_goes_with_any_optimizer():
    model = plain()
    optimizers = [torch.optim.LBFGS(model.parameters()), apart(model, "4")]
    before = [groups(optimizer) for optimizer in optimizers]
    following = Following(optimizers, model)
    following.update(model, {}, {})
    assert [groups(optimizer) for optimizer in optimizers] == before
    assert following.is_restorable()


def test_no_optimizer_is_nothing_to_follow():
    model = plain()
    following = Following([], model)
    model[0].bias = None
    following.update(model, {}, {})
    assert following.is_restorable()
    following.restore()


def test_a_step_in_between_can_be_restored_and_other_groups_cannot():
    model = plain()
    optimizer = apart(model, "4")
    following = Following([optimizer], model)
    model[0].bias = None
    following.update(model, {}, {})
    step(model, BATCH, optimizer)
    assert following.is_restorable()
    moved = optimizer.param_groups[0]["params"].pop()
    assert not following.is_restorable()
    optimizer.param_groups[1]["params"].append(moved)
    assert not following.is_restorable()


def test_restoring_drops_the_state_of_what_was_new():
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    following = Following([optimizer], model)
    model.insert(1, nn.LayerNorm(8))
    new = list(model[1].parameters())
    following.update(model, {}, {})
    step(model, BATCH, optimizer)
    assert all(p in optimizer.state for p in new)
    following.restore()
    assert not any(p in optimizer.state for p in new)
    assert all(p in optimizer.state for p in optimizer.param_groups[0]["params"])
    assert len(optimizer.param_groups[0]["params"]) == 6


def test_names_follow_a_parameter_that_gets_another_path():
    model = plain()
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
    following = Following([optimizer], model)
    model.insert(1, nn.LayerNorm(8))
    following.update(model, {}, {})
    (group,) = optimizer.param_groups
    assert group["param_names"] == names_in(optimizer, model)[0]
    assert {"1.weight", "3.weight", "5.bias"} <= set(group["param_names"])


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.Adafactor])
def test_a_part_of_a_parameter_gets_its_part_of_the_state(kind):
    """Averages of the parameter's shape are cut; factored ones, which no part has, begin anew."""
    layer = nn.Linear(3, 4)
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(layer.parameters(), lr=0.1, **options)
    layer(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    old, held = layer.weight, copy.deepcopy(optimizer.state[layer.weight])
    new = nn.Parameter(old.detach()[1:3].clone())
    edit = ParameterEdit(layer, "weight", old, new, True, cut=lambda tensor: tensor[1:3])
    following = Following([optimizer], layer)
    edit.do()
    following.update(layer, edit.successors(), {}, {}, edit.cuts())
    assert any(p is new for p in optimizer.param_groups[0]["params"])
    if kind is torch.optim.Adafactor:
        assert new not in optimizer.state
    else:
        for name, value in held.items():
            expected = value[1:3] if torch.is_tensor(value) and value.dim() else value
            assert torch.equal(torch.as_tensor(optimizer.state[new][name]), torch.as_tensor(expected))
    edit.undo()
    following.restore()
    assert new not in optimizer.state
    assert optimizer.state[old].keys() == held.keys()
