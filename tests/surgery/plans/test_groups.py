"""New parameters join the group of those that they are like: what decays, and how fast it learns, stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normsmith import surgery
from normsmith.surgery.plans.groups import Companions, Member, is_vector, members


def normed() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)
    ).train()


def by_dimension(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    """Matrices decay, vectors do not."""
    matrices = [p for p in model.parameters() if not is_vector(p)]
    vectors = [p for p in model.parameters() if is_vector(p)]
    return torch.optim.SGD(
        [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}], lr=lr
    )


def group_of(parameter: nn.Parameter, *optimizers: torch.optim.Optimizer) -> dict:
    (group,) = [g for one in optimizers for g in one.param_groups if any(p is parameter for p in g["params"])]
    return group


OPERATIONS = [
    pytest.param(surgery.fold, id="fold"),
    pytest.param(surgery.strip, id="strip"),
    pytest.param(lambda model: surgery.strip(model, fold=True), id="strip by folding"),
    pytest.param(lambda model: surgery.place(model, "after"), id="place"),
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_bias_that_takes_over_beta_does_not_decay_where_beta_did_not(operation):
    model = normed()
    optimizer = by_dimension(model)
    before = [list(map(id, group["params"])) for group in optimizer.param_groups]
    plan = operation(model)
    plan.apply(optimizer=optimizer)
    assert group_of(model[0].bias, optimizer)["weight_decay"] == 0.0
    assert plan.joined == {"0.bias": "1.bias"}
    assert "0.bias joins the optimizer's group of 1.bias" in " ".join(str(plan).split())
    plan.revert()
    assert plan.joined == {}
    assert [list(map(id, group["params"])) for group in optimizer.param_groups] == before


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_bias_that_takes_over_beta_goes_where_beta_was_although_other_biases_are_nearer_in_kind(operation):
    model = normed()
    norm, others = list(model[1].parameters()), [*model[0].parameters(), *model[3].parameters()]
    optimizer = torch.optim.SGD([{"params": others, "lr": 0.1}, {"params": norm, "lr": 0.2}])
    operation(model).apply(optimizer=optimizer)
    assert group_of(model[0].bias, optimizer)["lr"] == 0.2


def test_a_plan_of_strip_that_has_no_path_of_the_norm_still_finds_a_vector():
    model = normed()
    optimizer = by_dimension(model)
    plan = surgery.strip(model)
    (row,) = plan.operation.arguments["biases"]
    del row["path"]
    plan.operation.plan(model).apply(optimizer=optimizer)
    assert group_of(model[0].bias, optimizer)["weight_decay"] == 0.0


def test_gamma_and_beta_join_those_of_other_norms_and_not_the_biases():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    norms = list(model[1].parameters())
    weights = [m.weight for m in (model[0], model[3], model[5])]
    biases = [m.bias for m in (model[0], model[3], model[5])]
    optimizer = torch.optim.SGD([{"params": part} for part in (weights, biases, norms)], lr=0.1)
    plan = surgery.insert(model, "layer", only="4")
    plan.apply(optimizer=optimizer)
    new = dict(model.named_modules())["4_norm"]
    assert all(group_of(p, optimizer) is optimizer.param_groups[2] for p in new.parameters())
    assert plan.joined == {"4_norm.weight": "1.weight", "4_norm.bias": "1.bias"}


def test_biases_apart_by_name_take_beta_but_not_gamma():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    named = dict(model.named_parameters())
    parts = [[p for n, p in named.items() if n.endswith("bias") == is_bias] for is_bias in (False, True)]
    optimizer = torch.optim.SGD([{"params": part} for part in parts], lr=0.1)
    surgery.insert(model, "layer", only="4").apply(optimizer=optimizer)
    new = dict(model.named_modules())["4_norm"]
    assert group_of(new.weight, optimizer) is optimizer.param_groups[0]
    assert group_of(new.bias, optimizer) is optimizer.param_groups[1]


def layered(model: nn.Sequential) -> torch.optim.Optimizer:
    """Each layer's matrices and vectors with the layer's own learning rate; vectors do not decay."""
    rows = []
    for number, layer in enumerate(m for m in model if list(m.parameters())):
        for decay, wanted in ((0.1, False), (0.0, True)):
            part = [p for p in layer.parameters() if is_vector(p) == wanted]
            rows.append({"params": part, "weight_decay": decay, "lr": 0.5**number})
    return torch.optim.SGD([row for row in rows if row["params"]])


def test_layers_with_learning_rates_of_their_own_keep_them():
    model = nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(4, 4), nn.ReLU())), nn.Linear(4, 2))
    optimizer = layered(model)
    surgery.insert(model, "layer", "after").apply(optimizer=optimizer)
    for number, name in enumerate(("1_norm", "3_norm", "5_norm", "7_norm")):
        for parameter in dict(model.named_modules())[name].parameters():
            group = group_of(parameter, optimizer)
            assert (group["lr"], group["weight_decay"]) == (0.5**number, 0.0)


def test_a_part_without_vectors_takes_the_vectors_with_its_learning_rate():
    first = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    model = nn.Sequential(first, nn.Linear(4, 4), nn.Linear(4, 2))
    body, neck, head = first.parameters(), model[1], model[2]
    rows = [
        {"params": body, "lr": 0.1, "weight_decay": 0.01},
        {"params": [neck.weight], "lr": 0.2, "weight_decay": 0.01},
        {"params": [neck.bias], "lr": 0.2, "weight_decay": 0.0},
        {"params": [head.weight], "lr": 0.3, "weight_decay": 0.01},
        {"params": [head.bias], "lr": 0.1, "weight_decay": 0.0, "name": "vectors at the body's rate"},
    ]
    optimizer = torch.optim.SGD(rows)
    surgery.insert(model, "layer").apply(optimizer=optimizer)
    new = dict(model.named_modules())["0.1_norm"]
    assert [group_of(p, optimizer) for p in new.parameters()] == [optimizer.param_groups[4]] * 2


def test_a_part_without_vectors_keeps_its_learning_rate_where_no_vectors_have_it():
    first = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    model = nn.Sequential(first, nn.Linear(4, 2))
    optimizer = torch.optim.SGD(
        [{"params": first.parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.2}]
    )
    surgery.insert(model, "layer").apply(optimizer=optimizer)
    new = dict(model.named_modules())["0.1_norm"]
    assert [group_of(p, optimizer)["lr"] for p in new.parameters()] == [0.1, 0.1]


def test_an_optimizer_for_matrices_gets_no_vectors_beside_one_for_vectors():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    matrices = [{"params": [model[i].weight], "lr": 0.1 * (i + 1)} for i in (0, 2, 4)]
    one = torch.optim.SGD(matrices)
    other = torch.optim.Adam([model[2].bias, model[4].bias])
    plan = surgery.insert(model, "layer")
    plan.apply(optimizer=[one, other])
    assert all(not is_vector(p) for group in one.param_groups for p in group["params"])
    assert len(other.param_groups[0]["params"]) == 6


def test_what_does_not_train_joins_no_optimizer_that_leaves_out_its_layer():
    model = normed()
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    plan = surgery.strip(model)
    plan.apply(optimizer=optimizer)
    assert not model[0].bias.requires_grad
    assert plan.joined == {}
    assert len(optimizer.param_groups[0]["params"]) == 2


def test_what_is_frozen_within_an_optimizer_stays_in_it():
    model = normed()
    model[0].requires_grad_(False)
    optimizer = by_dimension(model)
    surgery.strip(model).apply(optimizer=optimizer)
    assert group_of(model[0].bias, optimizer)["weight_decay"] == 0.0


# The search by itself.


def member(name: str, group: dict | None, kind: str = "bias", optimizer: torch.optim.Optimizer | None = None):
    return Member(name, nn.Parameter(torch.ones(2)), kind, group, optimizer)


def test_kinds_are_told_by_shape_and_owner():
    model = nn.ModuleDict({"layer": nn.Linear(2, 2), "norm": nn.GroupNorm(1, 2), "act": nn.PReLU()})
    owners = {name: model[name.partition(".")[0]] for name, _ in model.named_parameters()}
    kinds = {name: m.kind for name, m in members(dict(model.named_parameters()), owners).items()}
    assert kinds == {
        "layer.weight": "matrix",
        "layer.bias": "bias",
        "norm.weight": "norm's weight",
        "norm.bias": "norm's bias",
        "act.weight": "bias",
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("b.new.weight", "b.1.weight", id="the innermost module that holds both"),
        pytest.param("a.1_norm.weight", "a.1.weight", id="the nearest, the earlier one of two"),
    ],
)
def test_the_nearest_is_in_the_same_part(name, expected):
    group = {"params": []}
    before = [member(path, group, "matrix") for path in ("a.1.weight", "a.2.weight", "b.1.weight")]
    after = ["a.1", "a.1_norm", "a.2", "b.1", "b.new"]
    found = Companions(before, after).of(member(name, None, "matrix"))
    assert found is not None
    assert found.name == expected


def test_without_any_group_there_is_no_companion():
    assert Companions([member("a.weight", None)], ["a", "b"]).of(member("b.weight", None)) is None
