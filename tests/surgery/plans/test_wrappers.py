"""Wrappers that note a model's tensors: DDP follows or refuses, sharded models are refused, copies are found."""

import pytest
import torch
from tests.contracts.surgery import step
from tests.surgery.small import BATCH, normed
from tests.surgery.states import state_of
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from normsmith.errors import SurgeryError
from normsmith.surgery import convert
from normsmith.surgery.plans.wrappers import averaged, check_wrapped, wrapped_tensors


@pytest.fixture
def group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_inside_ddp():
    model = DistributedDataParallel(normed())
    plan = convert(model, to="renorm", schedule="keras", track="var")
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


@pytest.mark.usefixtures("group")
def test_parameters_and_buffers_of_each_wrapper_are_noted():
    wrapper = DistributedDataParallel(normed())
    noted = wrapped_tensors(nn.Sequential(nn.Linear(4, 4), wrapper))
    assert noted == {wrapper: {id(tensor) for tensor in (*wrapper.parameters(), *wrapper.buffers())}}


def in_place(model: nn.Module) -> None:
    with torch.no_grad():
        model[0].weight.add_(1)
        model[1].running_mean.add_(1)


def other_parameter(model: nn.Module) -> None:
    model[0].weight = nn.Parameter(torch.ones(8, 4))


def other_buffer(model: nn.Module) -> None:
    model[1].running_mean = torch.ones(8)


def one_less(model: nn.Module) -> None:
    model[0].bias = None


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("change", [other_parameter, other_buffer, one_less])
def test_tensors_that_ddp_does_not_know_are_refused(change):
    wrapper = DistributedDataParallel(normed())
    noted = wrapped_tensors(wrapper)
    in_place(wrapper.module)
    check_wrapped(noted)
    change(wrapper.module)
    with pytest.raises(SurgeryError, match="change the model first and wrap it then"):
        check_wrapped(noted)


class FullyShardedDataParallel(nn.Sequential):
    """By this name alone sharding is known: torch's own classes need not be imported for that."""


class SubclassOfSharded(FullyShardedDataParallel):
    pass


@pytest.mark.parametrize(
    ("model", "path"),
    [
        pytest.param(FullyShardedDataParallel(), r"\(model\)", id="the model itself"),
        pytest.param(nn.Sequential(nn.ReLU(), SubclassOfSharded()), "1", id="a part, by a base class"),
    ],
)
def test_sharding_is_found_by_name_wherever_it_is(model, path):
    with pytest.raises(SurgeryError, match=f"^{path}: expected a whole model, got a sharded one"):
        wrapped_tensors(model)


class Holder(nn.Module):
    def __init__(self, held: object) -> None:
        super().__init__()
        self.module = held


def test_the_averaged_copy_is_found():
    model, twin = normed(), normed()
    average = AveragedModel(model)
    assert averaged(average, model) is average.module
    assert averaged(Holder(twin), model) is twin
    assert averaged(twin, model) is twin


def test_a_copy_of_a_model_with_a_child_called_module_is_the_copy():
    model, twin = Holder(normed()), Holder(normed())
    assert averaged(twin, model) is twin
    assert averaged(Holder("a name"), normed()).module == "a name"
