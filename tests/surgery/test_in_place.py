"""Every operation on networks that overwrite tensors in place: as on their twins that do not, or refused."""

import pytest
import torch
from tests.surgery.hostile import HOSTILE, batch

from normsmith import surgery
from normsmith.errors import SurgeryError

OPERATIONS = {
    "strip": lambda model, x: surgery.strip(model, batch=x),
    "strip and fold": lambda model, x: surgery.strip(model, batch=x, fold=True),
    "fold": surgery.fold,
    "place after": lambda model, x: surgery.place(model, "after", batch=x),
    "place before": lambda model, x: surgery.place(model, "before", batch=x),
    "insert before": lambda model, x: surgery.insert(model, "layer", "before", batch=x),
    "insert after": lambda model, x: surgery.insert(model, "layer", "after", batch=x),
    "swap": lambda model, x: surgery.swap_activation(model, "tanh", batch=x),
    "swap for none": lambda model, x: surgery.swap_activation(model, "identity", batch=x),
    "convert": lambda model, x: surgery.convert(model, "group"),
    "freeze": lambda model, x: surgery.freeze(model),
}
REFUSED = {
    (
        "result ignored",
        "swap",
    ): "ReLU act writes in place, and Linear layer reads the tensor that was overwritten",
    (
        "view overwritten",
        "swap",
    ): "ReLU act writes in place, and Linear layer reads the tensor that was overwritten",
}


def outputs(model, x):
    """In evaluation, and in training with gradients by the names of parameters, from equal random numbers."""
    model.eval()
    with torch.no_grad():
        evaluated = model(x.clone())
    torch.manual_seed(2)
    trained = model.train()(x.clone())
    trained.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"evaluation": evaluated, "training": trained.detach(), **gradients}


def assert_alike(one, other):
    """The outputs are the same, and the gradients of parameters with the same names; norms may have moved."""
    assert {"evaluation", "training", "first.weight", "last.weight"} <= one.keys() & other.keys()
    for name in one.keys() & other.keys():
        torch.testing.assert_close(one[name], other[name])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_network_and_its_twin_are_alike(name):
    assert_alike(*(outputs(model, batch()) for model in HOSTILE[name].pair()))


@pytest.mark.parametrize("followed", ["forward", "symbols"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", HOSTILE)
def test_operations_do_the_same_to_both_or_refuse(name, operation, followed):
    if followed == "symbols" and HOSTILE[name].dynamic:
        pytest.skip("torch.fx does not follow it")
    x = batch() if followed == "forward" else None
    model, twin = (OPERATIONS[operation](one.eval(), x) for one in HOSTILE[name].pair())
    if model.refusals and not twin.refusals:
        reasons = "; ".join(refusal.reason for refusal in model.refusals)
        assert "in place" in reasons or "the function write" in reasons, reasons
        with pytest.raises(SurgeryError, match="cannot do everything"):
            model.apply(copy=True)
        return
    assert (name, operation) not in REFUSED
    changed, expected = (plan.apply(partial=True) for plan in (model, twin))
    assert_alike(outputs(changed, batch()), outputs(expected, batch()))


@pytest.mark.parametrize(("name", "operation"), REFUSED)
def test_what_would_have_no_effect_is_refused_with_the_reason(name, operation):
    model, _ = HOSTILE[name].pair()
    (refusal,) = OPERATIONS[operation](model, batch()).refusals
    assert refusal.path == "act"
    assert REFUSED[name, operation] in refusal.reason


@pytest.mark.parametrize("name", ["pre-activation", "pre-activation in a Sequential", "slice assigned"])
def test_a_stand_in_that_copies_is_shown_and_taken_back(name):
    model, _ = HOSTILE[name].pair()
    before = outputs(model, batch())
    model.zero_grad()
    plan = surgery.strip(model, batch=batch())
    assert "Copied()" in str(plan)
    again = surgery.Plan.from_json(HOSTILE[name].pair()[0], plan.to_json())
    assert [change.after for change in again.changes] == [change.after for change in plan.changes]
    plan.apply()
    plan.revert()
    fresh, _ = HOSTILE[name].pair()
    assert str(model) == str(fresh)
    model.load_state_dict(fresh.state_dict())
    assert_alike(before, outputs(model, batch()))
