"""Layers that share statistics between processes: gloo, uneven shards, DDP, FSDP2, ranks that do not arrive."""

import copy
import time

import pytest
import torch
import torch.distributed as dist
from tests.ranks import run_ranks, wait_for
from torch import nn

import normsmith.layers as ours
from normsmith.errors import SyncError
from normsmith.layers import accumulate

FSDP2_RUNS = hasattr(torch.cpu.Stream, "record_event")


def small_cnn(process_group=None):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        ours.BatchNorm2d(4, process_group=process_group),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        ours.BatchRenormAct2d(4, total_steps=100, process_group=process_group),
        nn.Flatten(),
        nn.Linear(4 * 16, 3),
    ).double()


def batches(steps):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(10, 1, 8, 8, generator=generator, dtype=torch.float64)
        yield x, torch.randint(0, 3, (10,), generator=generator)


def train(net, steps, shard=slice(None), ranks=1):
    """Equal to one process: loss = local sum × ranks / global count, because DDP averages gradients."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for x, target in batches(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x[shard]), target[shard], reduction="sum") * ranks / len(x)
        loss.backward()
        optimizer.step()


def shards(rank, size, empty=False):
    edges = {2: [0, 3, 10], 3: [0, 4, 4, 10] if empty else [0, 4, 5, 10]}[size]
    return slice(edges[rank], edges[rank + 1])


def _ddp(rank, size):
    net = nn.parallel.DistributedDataParallel(small_cnn("world"))
    train(net, 100, shards(rank, size), size)
    return net.module.state_dict()


def _ddp_two_forwards(rank, size):
    """Two forwards before a backward, on ranks whose buffers differ: DDP broadcasts rank 0's in between."""
    net = small_cnn("world")
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.add_(rank)
    net = nn.parallel.DistributedDataParallel(net)
    (x, _), (z, _) = batches(2)
    first, second = net(x[shards(rank, size)]), net(z[shards(rank, size)])
    (first.square().sum() + second.square().sum()).mul(size).backward()
    return [parameter.grad for parameter in net.parameters()]


def _fsdp(rank, size):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net = small_cnn("world")
    mesh = init_device_mesh("cpu", (size,))
    for layer in net:
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    train(net, 10, shards(rank, size), size)
    full = {name: parameter.full_tensor() for name, parameter in net.named_parameters()}
    return full | dict(net.named_buffers())


def _empty_shard(rank, size):
    net = small_cnn("world")
    x, _ = next(batches(1))
    y = net(x[shards(rank, size, empty=True)])
    y.square().sum().backward()
    return [y.detach()], [parameter.grad for parameter in net.parameters()], dict(net.named_buffers())


def _accumulated(rank, size, ghost):
    layer = ours.BatchNorm2d(1, process_group="world", ghost_batch_size=ghost).double()
    x, _ = next(batches(1))
    mine = x[shards(rank, size)]
    with accumulate(layer):
        for part in mine.tensor_split(2):
            layer(part)
    return layer.running_mean, layer.running_var, layer.num_batches_tracked


def _missing(rank, size, over):
    """Rank 1 stays away until all is over: from an exchange, from one in backward, from a layer's first forward."""
    net = nn.Sequential(nn.Identity(), ours.BatchNorm1d(3, process_group="world"))
    other = ours.BatchNorm1d(3, process_group="world")
    x = torch.randn(4, 3, requires_grad=True)
    net(x)
    y = other(x)
    if rank == 1:
        wait_for(over)
        return None
    messages, start = [], time.monotonic()
    for call in (
        lambda: net(x),
        lambda: y.sum().backward(),
        lambda: ours.BatchNorm1d(3, process_group="world")(x),
    ):
        with pytest.raises(SyncError) as caught:
            call()
        messages.append(str(caught.value))
    over.touch()
    return messages, time.monotonic() - start


def _double_backward(rank, size):
    x = torch.linspace(0, 1, 18, dtype=torch.float64).view(6, 3).cos()
    shard = slice(0, 2) if rank == 0 else slice(2, 6)
    mine = x[shard].clone().requires_grad_()
    layer = ours.BatchNorm1d(3, process_group="world", dtype=torch.float64)
    (g,) = torch.autograd.grad(layer(mine).pow(3).sum(), mine, create_graph=True)
    (second,) = torch.autograd.grad(g.square().sum(), mine)
    return g.detach(), second


def _subgroup(rank, size):
    group = dist.new_group([0, 1])
    if rank == 2:
        return None
    layer = ours.BatchNorm1d(1, process_group=group, affine=False)
    twin = copy.deepcopy(layer)
    x = torch.full((2, 1), float(rank))
    return layer(x), twin(x), layer.eval()(x)


def _all(rank, size):
    """One set of processes for everything that two ranks do; only numbers come back."""
    plain = {"ddp": _ddp, "two forwards": _ddp_two_forwards, "double": _double_backward}
    if FSDP2_RUNS:
        plain["fsdp"] = _fsdp
    result = {name: function(rank, size) for name, function in plain.items()}
    return result | {ghost: _accumulated(rank, size, ghost) for ghost in (None, 3)}


def _three(rank, size):
    return {"ddp": _ddp(rank, size), "empty": _empty_shard(rank, size), "subgroup": _subgroup(rank, size)}


def _compiled(rank, size):
    torch._dynamo.reset()
    layer = ours.BatchNorm1d(3, process_group="world", dtype=torch.float64)
    x = torch.linspace(0, 1, 18, dtype=torch.float64).view(6, 3).cos()
    mine = x[slice(0, 2) if rank == 0 else slice(2, 6)].clone().requires_grad_()
    y = torch.compile(layer, backend="aot_eager", fullgraph=True)(mine)
    y.pow(3).sum().backward()
    return y.detach(), mine.grad, layer.running_var


def _compiled_at_once(rank, size):
    """No forward before the compiled ones: in one graph within DDP, and around DDP in several."""
    inside = torch.compile(small_cnn("world"), backend="aot_eager", fullgraph=True)
    inside = nn.parallel.DistributedDataParallel(inside)
    train(inside, 2, shards(rank, size), size)
    around = small_cnn("world").insert(2, _Break())
    around = torch.compile(nn.parallel.DistributedDataParallel(around), backend="aot_eager")
    train(around, 2, shards(rank, size), size)
    return [([p.detach() for p in net.parameters()], list(net.buffers())) for net in (inside, around)]


class _Break(nn.Module):
    """A place where the compiler breaks the graph."""

    def forward(self, x):
        torch._dynamo.graph_break()
        return x


def close(result, want):
    torch.testing.assert_close(result, want, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def two():
    return run_ranks(_all, 2)


@pytest.fixture(scope="module")
def three():
    return run_ranks(_three, 3)


def test_100_steps_under_ddp_equal_one_process(two, three):
    alone = small_cnn()
    train(alone, 100)
    for result in (*two, *three):
        close(result["ddp"], alone.state_dict())


def test_ddp_two_forwards_on_ranks_whose_buffers_differ(two):
    net = small_cnn()
    (x, _), (z, _) = batches(2)
    (net(x).square().sum() + net(z).square().sum()).backward()
    for result in two:
        close(result["two forwards"], [parameter.grad for parameter in net.parameters()])


@pytest.mark.skipif(not FSDP2_RUNS, reason="FSDP2 of torch 2.6 asks for streams that CPUs have not")
def test_fsdp2_equals_one_process(two):
    alone = small_cnn()
    train(alone, 10)
    for result in two:
        close(result["fsdp"], dict(alone.state_dict()))


def test_an_empty_shard_changes_nothing(three):
    net = small_cnn()
    x, _ = next(batches(1))
    y = net(x)
    y.square().sum().backward()
    results = [result["empty"] for result in three]
    close(torch.cat([outputs[0] for outputs, _, _ in results]), y.detach())
    for index, parameter in enumerate(net.parameters()):
        close(sum(gradients[index] for _, gradients, _ in results), parameter.grad)
    for _, _, buffers in results:
        close(buffers, dict(net.named_buffers()))


@pytest.mark.parametrize("ghost", [None, 3])
def test_accumulation_across_ranks_is_one_update(two, ghost):
    x, _ = next(batches(1))
    layer = ours.BatchNorm2d(1).double()
    if ghost is None:
        layer(x)
    else:
        layer.momentum = 1.0
        chunks = [c for s in (x[:3], x[3:]) for part in s.tensor_split(2) for c in part.split(ghost)]
        parts = [chunk for chunk in chunks if len(chunk)]
        layer.running_mean = 0.1 * torch.stack([part.mean() for part in parts]).mean().view(1)
        layer.running_var = 0.9 + 0.1 * torch.stack([part.var() for part in parts]).mean().view(1)
    for mean, var, count in (result[ghost] for result in two):
        close((mean, var), (layer.running_mean, layer.running_var))
        assert count == 1


def test_a_missing_rank_ends_in_an_error_that_names_the_layer(tmp_path):
    (messages, seconds), _ = run_ranks(_missing, 2, tmp_path / "over", timeout=2)
    assert "Sequential.1: expected all 2 ranks to exchange statistics" in messages[0]
    assert "BatchNorm1d: expected all 2 ranks to exchange statistics" in messages[1]
    assert "BatchNorm1d: expected all 2 ranks to join" in messages[2]
    assert seconds < 10


def test_a_group_of_some_ranks_shares_among_them(three):
    first, second, third = (result["subgroup"] for result in three)
    assert third is None
    close(torch.cat([first[0], second[0]]).flatten(), torch.tensor([-1.0, -1, 1, 1]))
    close(first[0], first[1])


def test_double_backward_across_ranks(two):
    x = torch.linspace(0, 1, 18, dtype=torch.float64).view(6, 3).cos().requires_grad_()
    layer = ours.BatchNorm1d(3, dtype=torch.float64)
    (g,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(g.square().sum(), x)
    results = [result["double"] for result in two]
    close(torch.cat([first for first, _ in results]), g.detach())
    close(torch.cat([result for _, result in results]), second)


@pytest.mark.compiles
def test_the_first_training_forward_may_be_a_compiled_one_within_ddp_and_around_it():
    alone = small_cnn()
    train(alone, 2)
    want = list(alone.parameters()), list(alone.buffers())
    for results in run_ranks(_compiled_at_once, 2, timeout=200, bound=300):
        for result in results:
            close(result, want)


@pytest.mark.compiles
def test_compiles_across_ranks():
    x = torch.linspace(0, 1, 18, dtype=torch.float64).view(6, 3).cos().requires_grad_()
    layer = ours.BatchNorm1d(3, dtype=torch.float64)
    y = layer(x)
    y.pow(3).sum().backward()
    results = run_ranks(_compiled, 2)
    close(torch.cat([result for result, _, _ in results]), y.detach())
    close(torch.cat([result for _, result, _ in results]), x.grad)
    close(results[0][2], layer.running_var)
