"""A plan says what it will do, does all of it or nothing, only once, to copies too, and takes it back."""

import copy
import gc

import pytest
import torch
from tests.contracts.surgery import groups, step
from tests.surgery.small import BATCH, add_norms, normed, plain
from tests.surgery.states import state_of
from torch import nn
from torch.optim.swa_utils import AveragedModel

from normsmith import layers, surgery
from normsmith.anatomy import Refusal
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery import Change, Expectation, Plan, Remark, convert, fold, insert, strip, swap_activation
from normsmith.surgery.plans.edits import ParameterEdit
from normsmith.surgery.plans.optimizers import Following


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


def test_of_outputs_that_may_differ_nothing_is_printed():
    assert str(Plan("all of it", model(), expects=Expectation("differs", "same"))).splitlines() == [
        "all of it: 0 changes, 0 refusals"
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


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", ["optimizer", "ema"])
def test_what_is_neither_optimizer_nor_copy_is_said(wrong):
    for given in (None, [torch.nn.Parameter(torch.ones(1))]):
        with pytest.raises(InputError, match=f"{wrong}: expected .* of torch, got (NoneType|Parameter)"):
            convert(normed()).apply(**{wrong: given})


@pytest.mark.parametrize("what", ["statistics", "affine", "both"])
def test_a_copy_with_other_values_that_does_not_train_follows(what):
    model = normed()
    average = copy.deepcopy(model).requires_grad_(False)
    step(model, BATCH, torch.optim.SGD(model.parameters(), lr=0.1))  # the copy's statistics are initial still
    plan = surgery.freeze(model, what)
    plan.apply(ema=average)
    assert type(average[1]) is type(model[1])
    assert getattr(average[1], "pinned", None) == getattr(model[1], "pinned", None)
    plan.revert()
    assert type(average[1]) is nn.BatchNorm1d


def test_an_average_follows_with_its_own_values():
    model = normed()
    ema = AveragedModel(model, use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step(model, BATCH, optimizer)
    plan = convert(model, to="renorm", schedule="keras", track="var")
    values = ema.module[1].weight.clone(), ema.module[1].running_mean.clone()
    plan.apply(ema=ema)
    assert type(ema.module[1]) is layers.BatchRenorm1d
    assert torch.equal(ema.module[1].weight, values[0])
    assert not torch.equal(ema.module[1].running_mean, model[1].running_mean)
    ema.update_parameters(model)
    plan.revert()
    assert type(ema.module[1]) is type(model[1]) is nn.BatchNorm1d


def test_plain_copies_and_holders_follow_too():
    class Holder(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.module = copy.deepcopy(model)

    model = plain()
    twin, holder = copy.deepcopy(model), Holder(model)
    add_norms(model).apply(ema=[twin, holder])
    assert repr(twin) == repr(model) == repr(holder.module)


def test_a_copy_of_another_structure_is_refused():
    model = plain()
    with pytest.raises(SurgeryError, match="expected the plan's changes on Sequential too"):
        add_norms(model).apply(ema=plain()[:3])
    assert repr(model) == repr(plain())


def test_a_copy_needs_no_optimizer():
    model = plain()
    with pytest.raises(InputError, match="belong to the model itself"):
        add_norms(model).apply(copy=True, optimizer=torch.optim.SGD(model.parameters(), lr=1.0))
    plan = swap_activation(model, "tanh")
    twin = plan.apply(copy=True)
    assert [type(old) for old in plan.replaced] == [nn.ReLU, nn.ReLU]
    assert set(plan.replaced) <= set(model.modules())
    assert set(plan.replaced.values()) <= set(twin.modules())


def test_reverting_needs_what_was_left():
    model = normed()
    plan = convert(model, to="renorm", schedule="keras", track="var")
    with pytest.raises(SurgeryError, match="is not applied"):
        plan.revert()
    plan.apply()
    new, model[1] = model[1], nn.Identity()
    with pytest.raises(SurgeryError, match="changed after the plan"):
        plan.revert()
    model[1] = new
    assert plan.revert() is model
    plan.apply()
    assert model[1] is new


def test_modes_and_devices_of_in_between_are_kept():
    model = normed().train()
    plan = convert(model, to="renorm", schedule="keras", track="var")
    plan.apply().eval().double()
    plan.revert()
    assert not model[1].training
    assert model[1].running_var.dtype == model[1].weight.dtype == torch.float64
    assert model(BATCH.double()).dtype == torch.float64


def test_an_optimizer_that_changed_since_is_not_reverted():
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = add_norms(model)
    plan.apply(optimizer=optimizer)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(SurgeryError, match="the model or its optimizer changed"):
        plan.revert()


def stepped(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(BATCH).square().mean().backward()
    optimizer.step()


def halved(model: nn.Module) -> None:
    model.half()


def rebuilt(model: nn.Module) -> None:
    model[0] = nn.Linear(4, 8)


@pytest.mark.parametrize(
    ("plan_of", "changed"),
    [
        (surgery.fold, stepped),
        (surgery.fold, halved),
        (lambda model: surgery.set_statistics(model, {"1": {"running_mean": [9.0] * 8}}), halved),
        (lambda model: convert(model, "renorm", schedule="keras", track="std"), stepped),
        (lambda model: surgery.freeze(model.half()), lambda model: model[1].running_mean.add_(1)),
        (surgery.strip, halved),
        (lambda model: surgery.insert(surgery.strip(model).apply(), "batch"), halved),
        (
            lambda model: Plan("", model, edits=(ParameterEdit(model[0], "weight", model[0].weight, None),)),
            rebuilt,
        ),
    ],
)
def test_what_was_computed_from_values_of_before_is_not_applied(plan_of, changed):
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    plan = plan_of(model)
    changed(model)
    before = state_of(model)
    with pytest.raises(SurgeryError, match="changed after the plan"):
        plan.apply()
    assert state_of(model) == before


def test_a_new_norm_has_the_mode_that_the_model_has_when_it_comes():
    model = plain().train()
    plan = surgery.insert(model, "batch")
    model.eval()
    plan.apply()
    assert not any(module.training for module in model.modules())


def test_statistics_go_into_and_out_of_the_buffers_that_are_there():
    model = normed()
    before = model[1].running_mean.clone()
    plan = surgery.set_statistics(model, {"1": {"running_mean": [9.0] * 8}})
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    plan.apply()
    assert model[1].running_mean.tolist() == [9.0] * 8
    model.double()
    plan.revert()
    assert torch.equal(model[1].running_mean, before.double())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("operation", [convert, surgery.freeze, surgery.fold, surgery.trace, surgery.strip])
def test_what_is_no_model_is_said(operation):
    for wrong in (nn.BatchNorm1d, normed().state_dict()):
        with pytest.raises(InputError, match=r"model: expected an nn\.Module"):
            operation(wrong)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_a_copy_has_its_own_weights_that_a_hook_computes():
    network = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 8)), nn.BatchNorm1d(8))
    network(BATCH)  # the weight is no leaf of the graph now, which torch does not copy
    twin = convert(network, "group").apply(copy=True)
    assert torch.equal(twin[0](BATCH), network[0](BATCH))
    assert twin[0].weight_g is not network[0].weight_g


def test_an_interrupt_while_optimizers_follow_leaves_everything_as_it_was(monkeypatch):
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    step(network, BATCH, optimizer)
    before = state_of(network), groups(optimizer)
    update = Following.update

    def interrupted(*arguments):
        update(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Following, "update", interrupted)
    plan = add_norms(network)
    with pytest.raises(KeyboardInterrupt):
        plan.apply(optimizer=optimizer)
    assert (state_of(network), groups(optimizer)) == before
    assert plan.replaced == {}
