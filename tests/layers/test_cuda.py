"""The same numbers on a GPU, NCCL included. Skipped where there is none."""

import copy
from dataclasses import fields
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from tests.ops.product import Case, case, compare, measured, oracle, pairwise
from torch import nn

import normsmith.layers as ours
from normsmith.ops import Sync

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on_gpu(data):
    tensors = {field.name: getattr(data, field.name) for field in fields(data)}
    return Case(**{name: None if value is None else value.cuda() for name, value in tensors.items()})


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("row", pairwise(1), ids=str)
def test_pairs(row, dtype, tolerance):
    data = case(row)
    result = measured(row, on_gpu(data), dtype)
    compare(row, [{name: value.cpu() for name, value in result.items()}], oracle(row, data), tolerance)


@pytest.fixture
def nccl(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("nccl", store=store, rank=0, world_size=1, timeout=timedelta(seconds=60))
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_nccl_by_the_same_code(nccl):
    for row in pairwise(1):
        data = case(row)
        result = measured(row, on_gpu(data), torch.float64, 0, Sync(nccl))
        compare(row, [{name: value.cpu() for name, value in result.items()}], oracle(row, data), 1e-10)
    layer = ours.BatchNorm1d(3, process_group="world", device="cuda")
    twin = ours.BatchNorm1d(3, device="cuda")
    x = torch.randn(8, 3, device="cuda")
    torch.testing.assert_close(layer(x), twin(x))
    assert layer._sync.group is nccl


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_against_torch(dtype, memory_format):
    mine, theirs = ours.BatchNorm2d(16, device="cuda"), nn.BatchNorm2d(16, device="cuda")
    x = torch.randn(32, 16, 14, 14, device="cuda").to(dtype=dtype, memory_format=memory_format)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    g = torch.randn_like(x)
    y, want = mine(one), theirs(other)
    y.backward(g)
    want.backward(g)
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(y, want, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(one.grad, other.grad, rtol=tolerance, atol=tolerance)
    assert y.is_contiguous(memory_format=memory_format)


def test_no_forward_waits_for_the_device():
    layers = [
        ours.BatchNorm1d(8, device="cuda", momentum=None, ghost_batch_size=3),
        ours.BatchRenormAct1d(8, total_steps=10, device="cuda"),
    ]
    x, mask = torch.randn(16, 8, device="cuda"), torch.ones(16, device="cuda", dtype=torch.bool)
    for layer in layers:
        layer(x, mask=mask)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for layer in layers:
            layer(x.requires_grad_(), mask=mask, sample_weight=torch.ones_like(x[:, 0])).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.compiles
def test_compiles():
    torch._dynamo.reset()
    layer = ours.BatchRenorm2d(8, total_steps=10, device="cuda", momentum=None)
    twin = copy.deepcopy(layer)
    x = torch.randn(16, 8, 7, 7, device="cuda").requires_grad_()
    y = torch.compile(layer, fullgraph=True)(x)
    y.square().sum().backward()
    z = x.detach().clone().requires_grad_()
    twin(z).square().sum().backward()
    torch.testing.assert_close(x.grad, z.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.running_var, twin.running_var)


LAYERS = {
    "batch norm": lambda: ours.BatchNorm2d(16),
    "renorm": lambda: ours.BatchRenorm2d(16, total_steps=10),
    "relu after a residual": lambda: ours.BatchNormAct2d(16),
    "without statistics": lambda: ours.BatchNorm2d(16, track_running_stats=False),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 16, 5, 5), (64, 16, 64, 64)])
@pytest.mark.parametrize("name", LAYERS)
def test_prepared_calls_give_the_very_same_numbers(name, shape, training, monkeypatch):
    """The third call of a layer is a prepared one; where a backend is forced, none is."""
    results = []
    for forced in (True, False):
        torch.manual_seed(0)
        layer = LAYERS[name]().cuda().train(training)
        found = []
        if forced:
            monkeypatch.setenv("NORMSMITH_BACKEND", "triton")
        else:
            monkeypatch.delenv("NORMSMITH_BACKEND")
        for _ in range(3):
            x, z, g = (torch.randn(shape, device="cuda") for _ in range(3))
            inputs = [x.requires_grad_(), *layer.parameters()]
            if "residual" in name:
                inputs.append(z.requires_grad_())
            y = layer(x, residual=z if "residual" in name else None)
            with torch.no_grad():
                again = layer(x.detach())
            found += [
                y,
                again,
                *torch.autograd.grad(y, inputs, g),
                *(each.clone() for each in layer.buffers()),
            ]
        results.append(found)
    assert all(map(torch.equal, *results))
