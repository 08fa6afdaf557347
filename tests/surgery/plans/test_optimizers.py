"""Optimizers follow a model through a change: groups, state and names, and back again."""

import copy

import pytest
import torch
from tests.contracts.surgery import groups, step
from tests.surgery.small import BATCH, add_norms, normed, plain
from tests.surgery.states import state_of
from torch import nn

from normsmith import surgery
from normsmith.errors import SurgeryError
from normsmith.surgery import Plan, convert
from normsmith.surgery.plans.edits import ParameterEdit


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


def test_state_goes_to_an_heir():
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
    convert(normed_model, to="renorm", schedule="keras").apply(
        optimizer=torch.optim.LBFGS(normed_model.parameters())
    )


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
