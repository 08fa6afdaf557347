"""Applying a plan: to optimizers, EMA copies, deep copies and wrapped models; and undoing it."""

import copy
import json

import pytest
import torch
from tests.contracts.surgery import groups, step
from tests.surgery.states import state_of
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from normsmith import layers, surgery
from normsmith.anatomy.preserve import preserved
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery import Change, Expectation, Plan, convert, swap_activation
from normsmith.surgery.placement.sequential import Rearrangement
from normsmith.surgery.plans.edits import AttributeEdit, BufferEdit, Edit, ModuleEdit, ParameterEdit
from normsmith.surgery.plans.operation import operation
from normsmith.surgery.plans.wrappers import wrapped_tensors


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


@operation("add_norms")
def add_norms(model: nn.Module) -> Plan:
    """A norm after each activation of a Sequential, and no bias in the layers before: for these tests."""
    norms, biases, changes = Rearrangement(model), [], []
    for name, child in model.named_children():
        if isinstance(child, nn.ReLU):
            norms.place(f"{name}_norm", nn.BatchNorm1d(8), name, after=True)
            changes.append(Change(f"{name}_norm", "nothing", "BatchNorm1d", "asked for"))
            layer = model.get_submodule(str(int(name) - 1))
            biases.append(ParameterEdit(layer, "bias", layer.bias, None))
    return Plan("norms", model, changes=tuple(changes), edits=(norms, *biases))


BATCH = torch.randn(16, 4, generator=torch.Generator().manual_seed(3))


# Optimizers.


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


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", ["optimizer", "ema"])
def test_what_is_neither_optimizer_nor_copy_is_said(wrong):
    for given in (None, [torch.nn.Parameter(torch.ones(1))]):
        with pytest.raises(InputError, match=f"{wrong}: expected .* of torch, got (NoneType|Parameter)"):
            convert(normed()).apply(**{wrong: given})


# EMA and other copies.


@pytest.mark.parametrize("what", ["statistics", "affine", "both"])
def test_a_copy_with_other_values_that_does_not_train_follows(what):
    model = normed()
    average = copy.deepcopy(model).requires_grad_(False)
    step(model, BATCH, torch.optim.SGD(model.parameters(), lr=0.1))  # the copy's statistics are initial still
    plan = surgery.freeze(model, what)
    plan.apply(ema=average)
    assert type(average[1]) is type(model[1])
    assert getattr(average[1], "_pinned", None) == getattr(model[1], "_pinned", None)
    plan.revert()
    assert type(average[1]) is nn.BatchNorm1d


def test_an_average_follows_with_its_own_values():
    model = normed()
    ema = AveragedModel(model, use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step(model, BATCH, optimizer)
    plan = convert(model, to="renorm", schedule="keras")
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


# Reverting.


def test_reverting_needs_what_was_left():
    model = normed()
    plan = convert(model, to="renorm", schedule="keras")
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
    plan = convert(model, to="renorm", schedule="keras")
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


# Models that changed between a plan and its application.


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
def test_what_was_reckoned_from_values_of_before_is_not_applied(plan_of, changed):
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


# Each edit by itself.


def edits() -> list[tuple[nn.Module, Edit]]:
    model = normed()
    children = Rearrangement(model)
    children.remove("1")
    return [
        (model, ModuleEdit(((model, "2"),), model[2], nn.Tanh())),
        (model, children),
        (model, ParameterEdit(model[0], "bias", model[0].bias, None)),
        (model, BufferEdit(model[1], "running_mean", torch.ones(8))),
        (model, AttributeEdit(model[1], "momentum", 0.5)),
        (model, AttributeEdit(model[1].weight, "requires_grad", False)),
    ]


@pytest.mark.parametrize("index", range(6))
def test_an_edit_does_and_undoes(index):
    model, edit = edits()[index]
    before = state_of(model)
    assert edit.is_possible()
    edit.do()
    assert state_of(model) != before
    assert edit.is_undoable()
    assert not edit.is_possible()
    edit.undo()
    assert state_of(model) == before


# Verification.


def lying(model: nn.Module, **expects: str) -> Plan:
    plan = swap_activation(model, "tanh")
    plan.expects = Expectation(**expects)
    return plan


def test_verification_finds_what_is_not_as_expected():
    model = plain()
    frozen = lying(nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), evaluation="differs")
    before = state_of(model)
    with pytest.raises(SurgeryError, match=r"in evaluation: expected the outputs as before, to 0.0001"):
        lying(model, evaluation="same").verify(BATCH)
    with pytest.raises(SurgeryError, match=r"in training: expected the outputs as before"):
        lying(model, training="same").verify(BATCH)
    found = lying(model, evaluation="differs", training="differs").verify((BATCH, None))
    assert found.evaluation > 1e-3
    assert found.training == found.evaluation
    assert "expected differs" in str(found)
    with pytest.raises(SurgeryError, match="got the same to the last bit"):
        frozen.verify(torch.zeros(3, 4))
    assert state_of(model) == before


def test_verification_names_what_the_batch_did_not_reach():
    class Either(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.one(x) if x.shape[0] > 1 else self.other(x)

    assert convert(Either(), to="batch").verify(BATCH).unreached == ("other",)


def test_verification_of_failing_forwards_and_applied_plans():
    model = normed()
    before = state_of(model)
    plan = convert(model, to="batch")
    with pytest.raises(
        SurgeryError, match="a forward in evaluation, before the change, failed on this batch"
    ):
        plan.verify(torch.ones(3, 5))
    with pytest.raises(SurgeryError, match="a forward in training, before the change, failed"):
        plan.verify(torch.ones(1, 4))
    with pytest.raises(SurgeryError, match="got none; give forward="):
        plan.verify(BATCH, forward=lambda *_: None)
    assert state_of(model) == before
    assert plan.verify({"x": BATCH}, forward=lambda model, batch: model(batch["x"])).unreached == ()
    plan.apply()
    with pytest.raises(SurgeryError, match="applied already"):
        plan.verify(BATCH)


def test_verification_restores_what_a_forward_leaves_behind():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.history = nn.BatchNorm1d(4), [1]

        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            self.history.append(torch.rand(()))
            return self.norm(x)

    model = Counting()
    model.norm.weight.grad = torch.ones(4)
    before = state_of(model)
    convert(model, to="batch").verify(BATCH)
    assert state_of(model) == before
    assert model.history == [1]
    with pytest.raises(RuntimeError), preserved(model):
        model.train()(torch.ones(2, 5))
    assert state_of(model) == before


# JSON.


def test_a_plan_is_read_back_and_checked():
    text = convert(normed(), "group", num_groups=2).to_json()
    arguments = {"to": "group", "num_groups": 2}
    assert json.loads(text)["operation"] == {"name": "convert", "arguments": arguments}
    model = normed()
    Plan.from_json(model, text).apply()
    assert model[1].num_groups == 2
    two = nn.Sequential(normed(), normed())
    with pytest.raises(
        SurgeryError, match=r"expected the plan's changes on Sequential too, got others: .*path='1'"
    ):
        Plan.from_json(two, text)
    wider = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2))
    with pytest.raises(SurgeryError, match="plan on this model itself"):
        Plan.from_json(wider, text)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 1, "operation": {"name": "convert"}}', "{}", "no plan"]
)
def test_text_that_is_no_plan(text):
    with pytest.raises(SurgeryError, match=r"expected a plan as Plan\.to_json writes it"):
        Plan.from_json(normed(), text)


def test_only_operations_are_called():
    evil = json.loads(convert(normed()).to_json())
    evil["operation"]["name"] = "os.system"
    with pytest.raises(SurgeryError, match=r"expected an operation among .*convert.*, got 'os.system'"):
        Plan.from_json(normed(), json.dumps(evil))


@pytest.mark.parametrize("arguments", [{}, {"places": [{}]}])
def test_arguments_that_an_operation_does_not_take_are_said(arguments):
    broken = json.loads(surgery.insert(plain(), "batch").to_json())
    broken["operation"]["arguments"] = broken["operation"]["arguments"] | arguments if arguments else {}
    with pytest.raises(SurgeryError, match=r"arguments of 'insert' as Plan\.to_json writes them"):
        Plan.from_json(plain(), json.dumps(broken))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("operation", [convert, surgery.freeze, surgery.fold, surgery.trace, surgery.strip])
def test_what_is_no_model_is_said(operation):
    for wrong in (nn.BatchNorm1d, normed().state_dict()):
        with pytest.raises(InputError, match=r"model: expected an nn\.Module"):
            operation(wrong)


def test_what_json_cannot_hold_is_said():
    with pytest.raises(SurgeryError, match=r"expected arguments that JSON holds .* got only="):
        convert(normed(), only=lambda *_: True).to_json()
    by_hand = Plan("by hand", normed(), changes=(Change("1", "a", "b", "c"),))
    with pytest.raises(SurgeryError, match="of no operation"):
        by_hand.to_json()
    with pytest.raises(SurgeryError, match="of no operation"):
        by_hand.on(normed())


# Wrappers.


@pytest.fixture
def group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_inside_ddp():
    model = DistributedDataParallel(normed())
    plan = convert(model, to="renorm", schedule="keras")
    assert [change.path for change in plan.changes] == ["module.1"]
    plan.verify(BATCH)
    plan.apply()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mean = model.module[1].running_mean.clone()
    for _ in range(2):
        step(model, BATCH, optimizer)
    assert not torch.equal(model.module[1].running_mean, mean)
    before = state_of(model)
    with pytest.raises(SurgeryError, match="change the model first and wrap it then"):
        convert(model, to="group").apply()
    assert state_of(model) == before


def test_a_sharded_model_is_refused():
    class FSDPModule(nn.Sequential):
        pass

    model = FSDPModule(nn.BatchNorm1d(4))
    with pytest.raises(SurgeryError, match="before FSDP"):
        convert(model).apply()
    assert type(model[0]) is nn.BatchNorm1d
    assert wrapped_tensors(normed()) == {}
