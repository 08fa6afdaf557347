"""Wrappers that note a model's tensors: DDP follows or refuses, sharded models are refused, copies are found."""

import pytest
import torch
from tests.contracts.surgery import step
from tests.surgery.small import BATCH, normed
from tests.surgery.states import state_of
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normsmith.errors import SurgeryError
from normsmith.surgery import convert
from normsmith.surgery.plans.wrappers import wrapped_tensors


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
