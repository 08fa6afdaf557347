"""Models that something else has a hand in: quantisation, TorchScript, lazy layers, wrappers across processes."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.surgery.networks import images
from tests.surgery.states import state_of
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normsmith.errors import SurgeryError
from normsmith.surgery import convert, fold, freeze, insert, place, recalibrate, strip, swap_activation, trace

OPERATIONS = {
    "convert": lambda model, batch: convert(model, "renorm", total_steps=9),
    "freeze": lambda model, batch: freeze(model, "statistics"),
    "fold": fold,
    "strip": lambda model, batch: strip(model, batch=batch),
    "place": lambda model, batch: place(model, "after", batch=batch),
    "swap": lambda model, batch: swap_activation(model, "tanh", batch=batch),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 2, 1),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*reduce_range:UserWarning")
@pytest.mark.parametrize("way", ["fused for training", "observed"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_models_prepared_for_quantisation_are_refused_and_stay_as_they_are(name, way):
    from torch.ao import quantization

    model, batch = network(), images(8)()
    model.qconfig = quantization.get_default_qat_qconfig("x86")
    if way == "fused for training":
        model = quantization.prepare_qat(quantization.fuse_modules_qat(model.train(), [["0", "1", "2"]]))
    else:
        model = quantization.prepare(model.eval())
    before = copy.deepcopy(model.state_dict())  # the first forward gives the observers' buffers another shape
    plan = OPERATIONS[name](model, batch)
    assert not plan.changes
    assert plan.refusals
    assert all(
        "prepared for quantisation" in remark.reason or "computes with its insides" in remark.reason
        for remark in plan.refusals
    )
    plan.verify(batch)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert before.keys() == model.state_dict().keys()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", [*OPERATIONS, "insert", "recalibrate", "trace"])
def test_scripted_models_are_refused(name):
    operations = {
        **OPERATIONS,
        "insert": lambda model, batch: insert(model, "batch", batch=batch),
        "recalibrate": lambda model, batch: recalibrate(model, [batch]),
        "trace": trace,
    }
    with pytest.raises(SurgeryError, match="got a scripted one; change the model it was made from"):
        operations[name](torch.jit.script(network()), images(8)())


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_scripted_part_is_no_norm():
    model = nn.Sequential(torch.jit.script(nn.BatchNorm2d(3)), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert [change.path for change in convert(model, "batch").changes] == ["2"]
    assert [layer.path for layer in recalibrate(model, [images(8)()]).layers] == ["2"]


def test_lazy_norms_are_not_stripped():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    assert "run the model once" in strip(model).refusals[0].reason
    model(images(8)())
    assert not strip(model).refusals


@pytest.fixture
def group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("name", ["fold", "strip"])
def test_what_a_wrapper_across_processes_cannot_follow_is_said_when_verifying_too(name):
    model, batch = DistributedDataParallel(network().eval()), images(8)()
    before = state_of(model)
    plan = OPERATIONS[name](model, batch)
    for use in (lambda: plan.verify(batch), plan.apply):
        with pytest.raises(SurgeryError, match="change the model first and wrap it then"):
            use()
        assert state_of(model) == before
