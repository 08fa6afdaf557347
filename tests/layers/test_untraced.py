"""Training forwards that leave no trace in running statistics, for every family of layers and for norms of others."""

import copy
import pickle

import pytest
import torch
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers import accumulate
from normsmith.layers.untraced import without_a_trace

X = torch.linspace(0, 9, 24).view(8, 3).cos()


class OthersNorm(nn.Module):
    """A norm of others, which moves its buffers in a way of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        self.running_mean.copy_(x.detach().mean(0))
        self.steps += 1
        return x - x.mean(0)


FAMILIES = {
    "norm": lambda: ours.BatchNorm1d(3),
    "cumulative": lambda: ours.BatchNorm1d(3, momentum=None),
    "ghost": lambda: ours.BatchNorm1d(3, ghost_batch_size=4),
    "act": lambda: ours.BatchNormAct1d(3),
    "renorm": lambda: ours.BatchRenorm1d(3, schedule="keras", track="var"),
    "renorm by std": lambda: ours.BatchRenorm1d(3, schedule="keras", track="std"),
    "whitening": lambda: ours.Whiten1d(3),
    "input": lambda: ours.InputNorm(3),
    "lstm": lambda: ours.BatchNormLSTM(3, 2, max_steps=2),
    "gru by input": lambda: ours.BatchNormGRU(3, 2, normalize="input"),
    "torch": lambda: nn.BatchNorm1d(3),
    "torch, cumulative": lambda: nn.BatchNorm1d(3, momentum=None),
    "instance norm": lambda: nn.InstanceNorm1d(3, track_running_stats=True),
    "others": OthersNorm,
}


def run(layer):
    x = X.view(2, 4, 3) if "GRU" in type(layer).__name__ or "LSTM" in type(layer).__name__ else X
    if isinstance(layer, nn.InstanceNorm1d):
        x = X.view(2, 3, 4)
    y = layer(x)
    return y[0] if isinstance(y, tuple) else y


def buffers(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_forward_is_the_same_and_every_buffer_stays(family):
    layer = FAMILIES[family]()
    run(layer)
    before, twin = buffers(layer), copy.deepcopy(layer)
    with without_a_trace(layer):
        for _ in range(2):
            y = run(layer)
            assert torch.equal(y, run(copy.deepcopy(twin)))
    after = buffers(layer)
    assert before
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    if y.requires_grad:
        y.square().sum().backward()
    run(layer)
    run(twin)
    moved = buffers(layer)
    assert all(torch.equal(value, moved[name]) for name, value in buffers(twin).items())
    assert any(not torch.equal(value, moved[name]) for name, value in before.items())


@pytest.mark.parametrize("family", ["norm", "renorm", "whitening", "lstm", "torch"])
def test_evaluation_within_the_block_is_evaluation(family):
    layer = FAMILIES[family]()
    run(layer)
    layer.eval()
    want = run(layer)
    with without_a_trace(layer):
        assert torch.equal(run(layer), want)
        layer.train()
        assert not torch.equal(run(layer), want)


def test_frozen_and_fitted_layers_run_as_they_always_do():
    net = nn.Sequential(ours.InputNorm(3).fit(X), ours.BatchNorm1d(3).freeze())
    want = net(X[:4])
    with without_a_trace(net):
        assert torch.equal(net(X[:4]), want)
    assert net[1].pinned is not None


def test_renorm_keeps_to_the_bounds_of_the_next_step():
    layer = ours.BatchRenorm1d(3, total_steps=10)
    for _ in range(3):
        layer(X)
    next_step = [float(bound) for bound in layer.bounds()]
    with without_a_trace(layer):
        layer(X), layer(X)
        assert [float(bound) for bound in layer.bounds()] == next_step


def test_blocks_nest_and_end_by_exceptions():
    layer = ours.BatchNorm1d(3)
    with without_a_trace(layer):
        with without_a_trace(layer):
            layer(X)
        layer(X)
    with pytest.raises(InputError), without_a_trace(layer):
        layer(X[:1])
    assert layer.num_batches_tracked == 0
    layer(X)
    assert layer.num_batches_tracked == 1


def test_accumulate_takes_only_what_runs_outside():
    layer, twin = ours.BatchNorm1d(3), ours.BatchNorm1d(3)
    with accumulate(layer):
        layer(X)
        with without_a_trace(layer):
            layer(X + 1)
    twin(X)
    torch.testing.assert_close(buffers(layer), buffers(twin))
    with without_a_trace(layer), accumulate(layer):
        layer(X)
    torch.testing.assert_close(buffers(layer), buffers(twin))


@pytest.mark.parametrize("family", ["norm", "renorm", "torch", "torch, cumulative"])
def test_copies_and_pickles_of_the_block_leave_traces_again(family):
    net = nn.Sequential(FAMILIES[family]())
    with without_a_trace(net):
        copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
        assert repr(net[0].track_running_stats) == str(not family.startswith("torch"))
    for twin in copies:
        twin(X)
        assert twin[0].track_running_stats is True
        assert twin[0].num_batches_tracked == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_part_has_its_buffers_back():
    net = nn.Sequential(torch.jit.script(nn.BatchNorm1d(3)), ours.BatchNorm1d(3))
    before = copy.deepcopy(net.state_dict())
    with without_a_trace(net):
        net(X)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    net(X)
    assert net[0].num_batches_tracked == net[1].num_batches_tracked == 1


def test_a_lazy_layer_takes_its_channels_within_the_block():
    layer = ours.LazyBatchNorm1d()
    with without_a_trace(layer):
        layer(X)
    assert (layer.num_features, int(layer.num_batches_tracked)) == (3, 0)
    with pytest.raises(InputError, match="got a lazy one at '0'; run the model once before"):
        without_a_trace(nn.Sequential(nn.LazyBatchNorm1d())).__enter__()


def test_a_model_without_running_statistics_is_refused():
    with pytest.raises(InputError, match="got Linear without any; its forwards leave no trace"):
        without_a_trace(nn.Linear(2, 2)).__enter__()


@pytest.mark.parametrize("family", ["norm", "cumulative", "renorm", "whitening", "input"])
def test_transforms_of_torch_func_point_to_the_block_and_run_in_it(family):
    layer = FAMILIES[family]()
    before = buffers(layer)
    stacked = torch.stack([X, X.flip(0) * 2])
    for transformed in (torch.vmap(layer), torch.func.grad(lambda x: layer(x[0]).square().sum())):
        with pytest.raises(
            InputError,
            match=r"^(\w+): running statistics: .* within normsmith\.layers\.without_a_trace\(model\)",
        ):
            transformed(stacked)
    with without_a_trace(layer):
        y = torch.vmap(layer)(stacked)
        torch.func.grad(lambda x: layer(x).square().sum())(X)
        torch.testing.assert_close(y, torch.stack([layer(x) for x in stacked]), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in buffers(layer).items())


@pytest.mark.compiles
@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # torch's compiler does so
@pytest.mark.parametrize("family", ["norm", "renorm", "whitening", "torch"])
def test_compiled_forwards_leave_no_trace_within_and_one_each_outside(family):
    torch._dynamo.reset()
    layer = FAMILIES[family]()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for inside in (False, True, False, True):
        before, count = buffers(layer), int(layer.num_batches_tracked)
        if inside:
            with without_a_trace(layer):
                compiled(X)
            assert all(torch.equal(value, before[name]) for name, value in buffers(layer).items())
        else:
            compiled(X)
            assert layer.num_batches_tracked == count + 1
