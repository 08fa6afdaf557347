"""A plan says what it will do, does all of it or nothing, and only once."""

import gc
import threading

import pytest
import torch
from torch import nn

from normsmith.anatomy import Refusal
from normsmith.anatomy.isolation import garbage_collector_paused
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery import Change, Expectation, Plan, Remark, convert, fold, insert, strip, swap_activation
from normsmith.surgery.plans.edits import ParameterEdit


def model():
    return nn.Sequential(
        nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2), nn.Softmax(1)
    )


@pytest.mark.parametrize("collects", [True, False])
def test_planning_leaves_the_garbage_collector_as_it_was(collects):
    before = gc.isenabled()
    try:
        gc.enable() if collects else gc.disable()
        fold(model())
        with pytest.raises(InputError):
            convert(model(), "nonsense")
        assert gc.isenabled() == collects
    finally:
        gc.enable() if before else gc.disable()


def test_plans_made_in_several_threads_leave_the_garbage_collector_on():
    inside, outside = threading.Barrier(2, timeout=30), threading.Barrier(2, timeout=30)

    def first():
        with garbage_collector_paused():
            inside.wait()
        outside.wait()

    def last():
        with garbage_collector_paused():
            inside.wait()
            outside.wait()

    threads = [threading.Thread(target=target) for target in (first, last)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert gc.isenabled()


def test_planning_changes_nothing():
    network = model()
    before = repr(network), list(network.state_dict())
    str(strip(network))
    str(swap_activation(network, "tanh"))
    assert (repr(network), list(network.state_dict())) == before


def test_printing_is_the_dry_run():
    plan = Plan(
        "all of it",
        model(),
        changes=(Change("1", "BatchNorm1d(8)", "nothing", "asked for", also=("2.norm",)),),
        refusals=(Refusal("", "because"),),
        kept=(Remark("3", "it is so already"),),
        renamed={"4": "5"},
        expects=Expectation("same", "differs"),
    )
    assert str(plan).splitlines() == [
        "all of it: 1 change, 1 refusal",
        "  1, 2.norm  BatchNorm1d(8) → nothing  asked for",
        "  (model)    refused                   because",
        "  3          kept                      it is so already",
        "  4          renamed 5",
        "  outputs: the same in evaluation; in training: differs",
    ]


def test_refusals_are_printed_and_leave_the_model_alone():
    network = model()
    plan = insert(network, "layer")
    assert "refused" in str(plan)
    with pytest.raises(SurgeryError, match=r"2: BatchNorm1d 1 is before it already; strip the norms first"):
        plan.apply()
    assert type(network[1]) is nn.BatchNorm1d


def test_a_plan_is_applied_once():
    plan = strip(model())
    plan.apply()
    with pytest.raises(SurgeryError, match="applied already"):
        plan.apply()


def test_a_plan_for_a_model_that_changed_since_is_refused():
    network = model()
    plan = convert(network, "group")
    network[1] = nn.Tanh()
    with pytest.raises(SurgeryError, match="changed after the plan"):
        plan.apply()
    assert type(network[1]) is nn.Tanh


def test_an_exception_in_the_middle_leaves_the_model_as_it_was(monkeypatch):
    network = model()
    plan = strip(network)
    plan.edits = (*plan.edits, ParameterEdit(network[3], "bias", network[3].bias, None))
    states = {name: value.clone() for name, value in network.state_dict().items()}
    do = ParameterEdit.do
    calls = []

    def failing(edit):
        calls.append(edit)
        if len(calls) == 2:
            raise MemoryError("in the middle")
        do(edit)

    monkeypatch.setattr(ParameterEdit, "do", failing)
    with pytest.raises(MemoryError):
        plan.apply()
    assert network.state_dict().keys() == states.keys()
    assert all(torch.equal(value, states[name]) for name, value in network.state_dict().items())
    assert network[0].bias is None
