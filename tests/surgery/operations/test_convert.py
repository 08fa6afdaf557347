"""Converting batch norms: what becomes of each kind, what is carried, what is refused."""

import copy
import inspect
import time

import pytest
import torch
from tests.contracts.surgery import ALL, SurgeryContract
from tests.surgery.networks import (
    BatchNormAct2d,
    FrozenBatchNorm2d,
    OwnForward,
    PlainList,
    SharedNorm,
    hooked,
    images,
    lived_in,
    tied,
)
from tests.surgery.states import state_of
from torch import nn
from torch.nn.utils import parametrize

import normsmith
from normsmith import layers
from normsmith._torch import NORMS_TAKE_BIAS
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery import Plan, convert
from normsmith.surgery.targets import conversions


class TestRenorm(SurgeryContract):
    def plan(self, model: nn.Module) -> Plan:
        return convert(model, to="renorm", total_steps=100)


class Few(SurgeryContract):
    """Those whose networks differ in what this operation touches."""

    @pytest.fixture(params=["hf-levit", "shared norm", "hooked", "tied", "bfloat16", "dimensions"])
    def network(self, request: pytest.FixtureRequest):
        return ALL[request.param]


class TestGroup(Few):
    def plan(self, model: nn.Module) -> Plan:
        return convert(model, to="group")


class TestFrozen(Few):
    def plan(self, model: nn.Module) -> Plan:
        return convert(model, to="frozen")


def after_convolution(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return lived_in(nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Conv2d(4, 2, 1))).eval()


def detr_norm(features: int) -> nn.Module:
    from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

    return DetrFrozenBatchNorm2d(features)


SOURCES = {
    "torch": lambda: nn.BatchNorm2d(4, eps=1e-3, momentum=None),
    **({"torch without bias": lambda: nn.BatchNorm2d(4, bias=False)} if NORMS_TAKE_BIAS else {}),
    "torch without affine": lambda: nn.BatchNorm2d(4, affine=False),
    "torch sync": lambda: nn.SyncBatchNorm(4),
    "ours": lambda: layers.BatchNorm2d(4),
    "ghost": lambda: layers.BatchNorm2d(4, ghost_batch_size=2),
    "renorm": lambda: layers.BatchRenorm2d(4, total_steps=10),
    "renorm of std": lambda: layers.BatchRenorm2d(4, schedule="keras", track="std"),
    "fused": lambda: layers.BatchNormAct2d(4, activation="tanh"),
    "timm": lambda: BatchNormAct2d(4, nn.SiLU()),
    "detectron2": lambda: FrozenBatchNorm2d(4, eps=1e-3),
    "Hugging Face's frozen": lambda: detr_norm(4),
}
TARGETS = {
    "batch": {}, "renorm": {"total_steps": 100}, "sync": {}, "ghost": {"ghost_batch_size": 2}, "frozen": {},
    "domain": {"domains": ("clean", "adversarial"), "default": "clean"}, "torch": {}, "group": {}, "layer": {},
}  # fmt: skip
REFUSED = {("ghost", "torch"): "torch's batch norm has no ghost_batch_size"} | {
    (fused, to): "activation" for fused in ("fused", "timm") for to in ("torch", "group", "layer")
}


def test_every_target_is_tried_and_documented():
    assert TARGETS.keys() == conversions.TARGETS.keys()
    for documented in (convert, normsmith.convert):
        text = inspect.getdoc(documented) or ""
        assert [to for to in TARGETS if f'"{to}"' not in text] == []


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_into_every_other(source, to):
    model = after_convolution(SOURCES[source]())
    keys, affine = list(model.state_dict()), dict(model[1].named_parameters())
    plan = convert(model, to=to, **TARGETS[to])
    if (source, to) in REFUSED:
        (refusal,) = plan.refusals
        assert refusal.path == "1"
        assert REFUSED[source, to] in refusal.reason
        return
    expected = "differs" if to in ("group", "layer") else "same"
    assert plan.expects.evaluation == expected
    plan.verify(images(8)())
    changed = plan.apply()
    if to == "domain":
        changed[1] = changed[1].norms["clean"]  # the first has what there was
    assert all(changed[1]._parameters[name] is p for name, p in affine.items())
    if expected == "same":
        added = set(changed.state_dict()) ^ set(keys)
        assert added <= {"1.num_batches_tracked", "1.running_std"}
        assert changed[1].epsilon == 1e-3 if source in ("torch", "detectron2") and to != "torch" else True


def test_what_each_becomes():
    def become(norm, to, **options):
        return type(convert(after_convolution(norm), to=to, **options).apply()[1])

    assert become(nn.BatchNorm2d(4), "batch") is layers.BatchNorm2d
    assert become(nn.SyncBatchNorm(4), "batch") is layers.BatchNorm2d
    assert become(BatchNormAct2d(4, nn.ReLU()), "renorm", schedule="paper") is layers.BatchRenormAct2d
    assert become(layers.BatchRenorm2d(4, total_steps=9), "torch") is nn.BatchNorm2d
    assert become(layers.BatchNorm2d(4, process_group="world"), "torch") is nn.SyncBatchNorm
    assert become(FrozenBatchNorm2d(4), "batch") is layers.BatchNorm2d
    assert become(nn.BatchNorm2d(4), "layer") is nn.GroupNorm


def test_settings_stay_unless_an_option_says_otherwise():
    norm = layers.BatchNorm2d(
        4, ghost_batch_size=2, on_small_batch="running", process_group="world", momentum=0.3
    )
    new = convert(after_convolution(norm), to="renorm", schedule="crossq", ghost_batch_size=3).apply()[1]
    assert (new.ghost_batch_size, new.on_small_batch, new.process_group, new.momentum) == (
        3,
        "running",
        "world",
        0.3,
    )
    alone = convert(nn.Sequential(new), to="batch", process_group=None).apply()[0]
    assert alone.process_group is None
    steps = convert(
        nn.Sequential(layers.BatchRenorm1d(4, total_steps=7)), to="ghost", ghost_batch_size=2
    ).apply()[0]
    assert steps.total_steps == 7
    assert steps.schedule == layers.BatchRenorm1d(4, total_steps=7).schedule


def test_frozen_stays_frozen_and_reverts():
    model = after_convolution(nn.BatchNorm2d(4))
    plan = convert(model, to="frozen")
    plan.apply().train()
    mean = model[1].running_mean.clone()
    model(images(8)())
    assert torch.equal(model[1].running_mean, mean)
    assert [p.requires_grad for p in model[1].parameters()] == [False, False]
    again = convert(model, to="frozen")
    assert (len(again.changes), [remark.path for remark in again.kept]) == (0, ["1"])
    thawed = convert(model, to="batch")
    assert "was frozen" in str(thawed)
    plan.revert()
    assert [p.requires_grad for p in model[1].parameters()] == [True, True]


def test_statistics_and_counter_go_on():
    model = after_convolution(nn.BatchNorm2d(4))
    buffers = dict(model[1].named_buffers())
    plan = convert(model, to="renorm", total_steps=100)
    plan.apply().train()
    assert all(buffer is buffers[name] for name, buffer in model[1].named_buffers())
    model(images(8)())
    assert model[1].num_batches_tracked == 8
    trained = model[1].running_mean.clone()
    plan.revert()
    assert torch.equal(model[1].running_mean, trained)  # training is kept, surgery is undone


@pytest.mark.parametrize("to", ["batch", "group"])
def test_half_precision_keeps_its_dtype(to):
    model = after_convolution(nn.BatchNorm2d(4)).bfloat16()
    old = copy.deepcopy(model.state_dict())
    plan = convert(model, to=to)
    new = plan.apply()[1]
    assert new.weight.dtype == torch.bfloat16
    if to == "batch":
        assert new.running_var.dtype == torch.float32
        assert torch.equal(new.running_var.bfloat16(), old["1.running_var"])
        back = convert(model, to="torch").apply()[1]
        assert back.running_var.dtype == torch.bfloat16


def test_meta_device():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), FrozenBatchNorm2d(4))
    plan = convert(model, to="renorm", total_steps=5, only="1")
    assert {tensor.device.type for tensor in plan.apply().state_dict().values()} == {"meta"}
    assert plan.revert()[1].training
    assert "cannot be tried on the meta device" in convert(model, to="batch").refusals[0].reason


@pytest.mark.parametrize("to", ["batch", "renorm"])
def test_lazy_layers_stay_lazy_and_wake(to):
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    model[1].register_forward_hook(lambda *_: seen.append(1))
    seen = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = convert(model, to=to, **TARGETS[to])
    with pytest.raises(SurgeryError, match="a forward of the model needs values"):
        plan.verify(images(8)())
    plan.apply(optimizer=optimizer)
    assert model(images(8)()).shape == (4, 4, 6, 6)
    assert (type(model[1]).__name__, seen) == ({"batch": "BatchNorm2d", "renorm": "BatchRenorm2d"}[to], [1])
    model(images(8)()).sum().backward()
    optimizer.step()
    assert "does not know its number of channels" in (
        convert(nn.Sequential(nn.LazyBatchNorm1d()), to="layer").refusals[0].reason
    )


def parametrized_norm() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    parametrize.register_parametrization(norm, "weight", nn.Softplus())
    return norm


def replaced_forward() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.forward = lambda x: x
    return norm


def with_more() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.register_buffer("scale", torch.ones(4))
    return norm


def quantisable() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.qconfig = object()
    return norm


class NeverTrains(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


class FrozenBatchNormOfAnotherMind(FrozenBatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (lambda: OwnForward(4), "OwnForward has a forward of its own"),
        (parametrized_norm, "weight is parametrized"),
        (replaced_forward, "forward was replaced on this very BatchNorm2d"),
        (with_more, "holds scale beside what a batch norm has"),
        (quantisable, "prepared for quantisation"),
        (lambda: NeverTrains(4), r"NeverTrains has a train\(\) of its own"),
        (lambda: FrozenBatchNormOfAnotherMind(4), "does not compute batch norm"),
        (lambda: BatchNormAct2d(4, nn.Softplus()), r"Softplus.* is none of relu"),
        (lambda: nn.BatchNorm2d(4, track_running_stats=False), "no running statistics"),
        (lambda: layers.BatchNorm2d(4).freeze("batch"), r"frozen to the statistics of the batch"),
        (lambda: nn.SyncBatchNorm(7), "no layer before it does"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_its_reason(norm, reason):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm(), nn.BatchNorm2d(4))
    before = state_of(model)
    plan = convert(model, to="renorm", total_steps=9)
    (refusal,) = plan.refusals
    assert refusal.path == "1"
    with pytest.raises(SurgeryError, match=reason):
        plan.apply()
    assert state_of(model) == before
    plan.apply(partial=True)
    assert type(model[2]) is layers.BatchRenorm2d
    plan.revert()
    assert state_of(model) == before


def test_a_plain_list_that_holds_the_norm_is_found():
    assert "order holds it as a plain Python attribute" in convert(PlainList()).refusals[0].reason
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.blocks = {"stem": [(model[0], model[1])]}
    assert "blocks holds it as a plain Python attribute" in convert(model).refusals[0].reason
    model.blocks["stem"].append(model.blocks)  # it holds itself
    assert convert(model).refusals


def test_other_norms_are_none_of_its_business():
    model = nn.Sequential(
        nn.InstanceNorm2d(4, track_running_stats=True), nn.GroupNorm(2, 4), layers.Whiten2d(4)
    )
    with pytest.raises(SurgeryError, match="it has no batch norm"):
        convert(model)
    recurrent = nn.Sequential(layers.BatchNormLSTM(3, 4))
    with pytest.raises(SurgeryError, match="it has no batch norm"):
        convert(recurrent, to="torch")


def test_selection():
    model = nn.ModuleDict({name: nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)) for name in "abc"})

    def paths(**selection):
        return [change.path for change in convert(model, **selection).changes]

    assert paths(only="a.*") == ["a.0", "a.1"]
    assert paths(only=["a.0", "c.?"]) == ["a.0", "c.0", "c.1"]
    assert paths(only=lambda path, module: path.endswith("1")) == ["a.1", "b.1", "c.1"]
    assert paths(first=3) == ["a.0", "a.1", "b.0"]
    assert paths(only="*.1", last=2) == ["b.1", "c.1"]
    with pytest.raises(SurgeryError, match="none of its 6 batch norms is selected"):
        convert(model, only="d.*")
    with pytest.raises(InputError, match="got both"):
        convert(model, first=1, last=1)
    with pytest.raises(InputError, match="from 1 on"):
        convert(model, first=0)


def test_bad_arguments_are_said():
    model = nn.Sequential(nn.BatchNorm1d(4))
    with pytest.raises(InputError, match="expected one of batch, renorm"):
        convert(model, to="instance")
    with pytest.raises(InputError, match="expected ghost_batch_size"):
        convert(model, to="ghost")
    with pytest.raises(InputError, match="num_groups"):
        convert(model, to="renorm", num_groups=2)
    with pytest.raises(InputError, match="total_steps"):
        convert(model, to="renorm", total_steps=0)
    assert "divisible" in convert(model, to="group", num_groups=3).refusals[0].reason


def test_a_shared_norm_stays_shared():
    model = SharedNorm()
    old = model.norm
    plan = convert(model, to="renorm", total_steps=9)
    (change,) = plan.changes
    assert (change.path, change.also) == ("norm", ("again",))
    assert "norm, again" in str(plan)
    plan.apply()
    assert model.norm is model.again
    assert plan.replaced == {old: model.norm}


def test_tied_parameters_stay_tied():
    model = tied()
    convert(model, to="renorm", total_steps=9).apply()
    assert model[4].weight is model[1].weight
    assert model[3].weight is model[0].weight


def test_the_model_itself_may_be_the_norm():
    norm = nn.BatchNorm2d(4)
    plan = convert(norm, to="renorm", total_steps=9)
    new = plan.apply()
    assert type(new) is layers.BatchRenorm2d
    assert new.weight is norm.weight
    assert plan.revert() is norm
    assert type(convert(norm).apply(copy=True)) is layers.BatchNorm2d


def test_hooks_fire_once_and_their_handles_still_remove_them():
    model, seen = nn.Sequential(nn.BatchNorm2d(3)), []
    handle = model[0].register_forward_hook(lambda *_: seen.append("first"))
    plan = convert(model, to="renorm", schedule="keras", track="var")
    second = model[0].register_forward_hook(lambda *_: seen.append("second"))  # after planning
    plan.apply()
    model(images(8)())
    assert seen == ["first", "second"]
    handle.remove()
    model(images(8)())
    assert seen == ["first", "second", "second"]
    plan.revert()
    second.remove()
    model(images(8)())
    assert seen == ["first", "second", "second"]


def test_hooks_of_every_kind_know_the_new_module():
    model = hooked()
    plan = convert(model, to="renorm", schedule="keras", track="var")
    old = model[1]
    plan.apply()
    model.seen.clear()
    model(images(8)()).sum().backward()
    model.load_state_dict(model.state_dict())
    expected = ["pre", "pre kwargs", "forward", "forward kwargs", "always", "backward pre", "backward"]
    assert [seen for seen in model.seen if isinstance(seen, str)] == [*expected, "state pre", "state"]
    assert [seen for seen in model.seen if not isinstance(seen, str)] == [
        ("load pre", model[1]),
        ("load", model[1]),
    ]
    plan.revert()
    model.seen.clear()
    model.load_state_dict(model.state_dict())
    assert ("load pre", old) in model.seen


def test_attributes_that_users_put_on_a_norm_are_carried():
    model = nn.Sequential(nn.BatchNorm2d(3))
    model[0].tag = "mine"
    assert convert(model, to="renorm", total_steps=3).apply()[0].tag == "mine"


def test_the_one_line_returns_the_model():
    model = after_convolution(nn.BatchNorm2d(4))
    assert normsmith.convert(model, to="renorm", total_steps=9) is model
    assert type(model[1]) is layers.BatchRenorm2d
    twin = normsmith.convert(model, to="torch", copy=True)
    assert (type(twin[1]), type(model[1])) == (nn.BatchNorm2d, layers.BatchRenorm2d)
    mixed = nn.Sequential(OwnForward(3), nn.BatchNorm2d(3))
    with pytest.raises(SurgeryError, match="OwnForward"):
        normsmith.convert(mixed)
    assert type(normsmith.convert(mixed, partial=True)[1]) is layers.BatchNorm2d


def test_many_norms_are_planned_in_time():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(500)))
    started = time.process_time()
    plan = convert(model, to="renorm", total_steps=9)
    assert (
        time.process_time() - started < 2 * 3
    )  # beartype checks every call here; benchmarks/surgery_speed.py has the figure
    assert len(plan.changes) == 500


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Please use quant_min:UserWarning")
def test_a_model_prepared_for_quantisation_is_refused():
    from torch.ao import quantization

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()
    model.qconfig = quantization.get_default_qat_qconfig("x86")
    fused = quantization.prepare_qat(quantization.fuse_modules_qat(model, [["0", "1"]]))
    assert any("computes with its insides" in refusal.reason for refusal in convert(fused).refusals)
    single = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    single.qconfig = quantization.get_default_qconfig("x86")
    prepared = quantization.prepare(single)
    assert any("prepared for quantisation" in refusal.reason for refusal in convert(prepared).refusals)


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_compiled_model_computes_with_its_new_norms():
    inner = after_convolution(nn.BatchNorm2d(4)).train()
    model, x = torch.compile(inner, backend="eager"), images(8)()
    model(x)
    plan = convert(model, to="ghost", ghost_batch_size=2)
    assert [change.path for change in plan.changes] == ["_orig_mod.1"]
    plan.apply()
    expected = copy.deepcopy(inner)(x)
    torch.testing.assert_close(model(x), expected)
    plan.revert()
    torch.testing.assert_close(model(x), copy.deepcopy(inner)(x))
    alone = nn.Sequential(torch.compile(nn.BatchNorm2d(3), backend="eager"))
    assert "compiled by itself" in convert(alone).refusals[0].reason
    inner[1].compile(backend="eager")  # in place
    assert "compiled by itself; compile after converting" in convert(inner, to="frozen").refusals[0].reason
