"""Activation checkpointing: recomputed forwards repeat their originals and update nothing a second time."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import normsmith.layers as ours
from normsmith.layers import use_mask
from normsmith.layers._recompute import ForwardState, is_recomputing, state_of_forward
from normsmith.ops import Running


class Shared(nn.Module):
    """Two blocks through one norm each time it is called, as reused layers are."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
        self.norm = norm

    def forward(self, x):
        return self.norm(self.second(torch.tanh(self.norm(self.first(x)))))


NORMS = [
    ours.BatchNorm1d(4, dtype=torch.float64),
    ours.BatchNorm1d(4, dtype=torch.float64, ghost_batch_size=3),
    ours.BatchRenorm1d(4, schedule="keras", track="var", dtype=torch.float64, momentum=0.5),
    ours.BatchRenormAct1d(4, total_steps=20, dtype=torch.float64, activation="gelu", momentum=0.5),
]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
def test_checkpointing_changes_neither_gradients_nor_statistics(reentrant, norm):
    plain = Shared(copy.deepcopy(norm))
    saved = copy.deepcopy(plain)
    batches = [torch.randn(7, 4, dtype=torch.float64) for _ in range(2)]
    for net, segment in (
        (plain, lambda net, x: net(x)),
        (saved, lambda net, x: checkpoint(net, x, use_reentrant=reentrant)),
    ):
        # two forwards before one backward: backward recomputes the later one first
        inputs = [batch.clone().requires_grad_() for batch in batches]
        sum(segment(net, x).square().sum() * (1 + i) for i, x in enumerate(inputs)).backward()
        net.seen = [x.grad for x in inputs]
    for one, other in zip(plain.parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(plain.seen, saved.seen, strict=True):
        torch.testing.assert_close(one, other)
    for key, value in plain.norm.state_dict().items():
        assert torch.equal(value, saved.norm.state_dict()[key])
    assert saved.norm.num_batches_tracked == 4


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_remembers_the_mask_and_the_policy(reentrant):
    net = Shared(ours.BatchRenorm1d(4, schedule="keras", track="var", dtype=torch.float64))
    twin = copy.deepcopy(net)
    x, mask = torch.randn(6, 4, dtype=torch.float64), torch.tensor([1, 1, 1, 1, 0, 0])
    with use_mask(net, mask), use_mask(twin, mask):
        want = net(x.requires_grad_())
        got = checkpoint(twin, x, use_reentrant=reentrant)
    want.square().sum().backward()
    twin.eval()
    got.square().sum().backward()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_checkpointing_twice_through_a_retained_graph():
    net = Shared(ours.BatchRenorm1d(4, schedule="keras", track="var", dtype=torch.float64))
    y = checkpoint(net, torch.randn(6, 4, dtype=torch.float64).requires_grad_(), use_reentrant=False).sum()
    first = torch.autograd.grad(y, net.first.weight, retain_graph=True)
    second = torch.autograd.grad(y, net.first.weight)
    assert torch.equal(first[0], second[0])
    assert net.norm.num_batches_tracked == 2


class Counting(nn.Module):
    """Takes note of the state of each of its forwards; what is current changes with every one."""

    def __init__(self):
        super().__init__()
        self.count, self.states = 0, []

    def forward(self, x):
        self.states.append(state_of_forward(self, self.current))
        return x.sin()

    def current(self):
        self.count += 1
        value = torch.tensor([float(self.count)])
        return ForwardState(Running(value, value), None, None, "batch", True)


def means(states):
    return [state.running.mean.item() for state in states]


def test_outside_of_checkpoints_the_state_is_the_current_one():
    layer = Counting()
    layer(layer(torch.ones(2, requires_grad=True))).sum().backward()
    assert means(layer.states) == [1, 2]
    assert all(state.update_running for state in layer.states)
    assert not is_recomputing()


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_recomputed_forward_has_the_state_of_its_original_and_updates_nothing(reentrant):
    layer = Counting()
    x = torch.ones(2, requires_grad=True)
    y = checkpoint(lambda x: layer(layer(x)), x, use_reentrant=reentrant)
    checkpoint(layer, y, use_reentrant=reentrant).sum().backward()
    # backward runs the last segment again first; within a segment forwards keep their order
    assert means(layer.states) == [1, 2, 3, 3, 1, 2]
    assert [state.update_running for state in layer.states] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_recomputed_forward_without_an_original_updates_nothing(reentrant):
    layer, recorded = Counting(), []

    def segment(x):
        return layer(x) if recorded else x.sin()

    x = torch.ones(2, requires_grad=True)
    y = checkpoint(segment, x, use_reentrant=reentrant).sum()
    recorded.append(True)
    y.backward()
    assert means(layer.states) == [1]
    assert not layer.states[0].update_running


def test_a_state_for_recomputation_is_a_copy_without_an_update():
    mean, var, std = (torch.ones(2) for _ in range(3))
    state = ForwardState(Running(mean, var, std, torch.tensor(3)), None, None, "batch", True)
    kept = state.for_recomputation()
    for tensor in (mean, var, std):
        tensor.fill_(7)
    assert [tensor.tolist() for tensor in kept.running[:3]] == [[1, 1]] * 3
    assert kept.running.batches is None
    assert not kept.update_running
    assert ForwardState(None, None, None, "running", False).for_recomputation().running is None
