"""Where results go several ways: no operation puts two norms in one place, and every plan can be undone."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.fans import FANS
from tests.surgery.states import state_of
from torch import nn

from normsmith.anatomy.kinds import is_norm
from normsmith.anatomy.passing import norm_after
from normsmith.errors import SurgeryError
from normsmith.surgery import Plan, insert, place, swap_activation, trace

OPERATIONS = {
    "place before": lambda model, x: place(model, "before", batch=x),
    "place after": lambda model, x: place(model, "after", batch=x),
    "insert before": lambda model, x: insert(model, "batch", "before", batch=x),
    "insert after": lambda model, x: insert(model, "batch", "after", batch=x),
    "insert layer norms after": lambda model, x: insert(model, "layer", "after", batch=x),
    "swap": lambda model, x: swap_activation(model, "tanh", batch=x),
}


def planned(name: str, operation: str) -> tuple[nn.Module, torch.Tensor, Plan]:
    model, x = FANS[name].model(), FANS[name].batch()
    return model, x, OPERATIONS[operation](model, x)


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if is_norm(module)]


def adjacent(model: nn.Module, x: torch.Tensor) -> set[tuple[nn.Module, nn.Module]]:
    """Pairs of norms of which the second takes what the first puts out, perhaps passed on."""
    graph = trace(model, x)
    pairs = ((event.module, norm_after(graph, event)) for event in graph.having("norm"))
    return {(first, later.module) for first, later in pairs if later is not None}


def in_training(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(5)
    return model(x)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", FANS)
def test_norms_stand_alone_and_are_called(name, operation):
    model, x, plan = planned(name, operation)
    before, pairs = norms(model), adjacent(model, x)
    plan.apply(partial=True)
    after = norms(model)
    if operation.startswith("insert"):
        assert len(after) >= len(before)
    else:
        assert set(after) == set(before)
    assert len(after) == len(set(after))
    assert adjacent(model, x) <= pairs
    called = set(trace(model, x).calls)
    assert called.issuperset(after)
    output = in_training(model, x)
    assert output.isfinite().all()
    output.sum().backward()
    assert all(norm.weight.grad is not None for norm in after)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", FANS)
def test_every_plan_is_undone_and_done_again(name, operation):
    model, x, plan = planned(name, operation)
    expected, before = in_training(FANS[name].model(), x), state_of(model)
    for _ in range(2):
        plan.apply(partial=True)
        plan.revert()
        assert state_of(model) == before
    assert torch.equal(in_training(model, x), expected)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", FANS)
def test_a_trained_model_is_undone_with_its_optimizer_and_average(name, operation):
    model, x, plan = planned(name, operation)
    average = FANS[name].model()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, foreach=False)
    held = [list(group["params"]) for group in optimizer.param_groups]
    keys, averaged = list(model.state_dict()), state_of(average)
    plan.apply(partial=True, optimizer=optimizer, ema=average)
    assert list(average.state_dict()) == list(model.state_dict())
    in_training(model, x).square().sum().backward()
    optimizer.step()
    plan.revert()
    assert list(model.state_dict()) == keys
    del averaged["random"]
    assert {key: value for key, value in state_of(average).items() if key != "random"} == averaged
    assert [list(map(id, g["params"])) for g in optimizer.param_groups] == [list(map(id, g)) for g in held]
    optimizer.zero_grad()
    in_training(model, x).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", FANS)
def test_a_saved_plan_does_the_same_to_another_model(name, operation):
    model, x, plan = planned(name, operation)
    other = FANS[name].model()
    Plan.from_json(other, plan.to_json()).apply(partial=True)
    copied = plan.apply(partial=True, copy=True)
    plan.apply(partial=True)
    expected = in_training(model, x)
    assert torch.equal(in_training(other, x), expected)
    assert torch.equal(in_training(copied, x), expected)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("name", FANS)
def test_what_was_inserted_is_not_inserted_again(name, where):
    model, x = FANS[name].model(), FANS[name].batch()
    insert(model, "batch", where, batch=x).apply(partial=True)
    inserted, refused = len(norms(model)), False
    try:
        insert(model, "batch", where, batch=x).apply(partial=True)
    except SurgeryError:
        refused = True
    assert len(norms(model)) == inserted or refused
