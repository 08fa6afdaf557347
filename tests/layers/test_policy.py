"""Which statistics, whether to update, how they are corrected: freezing, checkpointing, accumulation, bad batches."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers import accumulate, use_mask


def norms(dtype=torch.float64):
    yield ours.BatchNorm1d(4, dtype=dtype)
    yield ours.BatchNorm1d(4, dtype=dtype, ghost_batch_size=3)
    yield ours.BatchRenorm1d(4, schedule="keras", dtype=dtype, momentum=0.5)
    yield ours.BatchRenormAct1d(4, total_steps=20, dtype=dtype, activation="gelu", momentum=0.5)


class Shared(nn.Module):
    """Two blocks through one norm each time it is called, as reused layers are."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
        self.norm = norm

    def forward(self, x):
        return self.norm(self.second(torch.tanh(self.norm(self.first(x)))))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("norm", list(norms()), ids=lambda norm: type(norm).__name__)
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
    net = Shared(ours.BatchRenorm1d(4, schedule="keras", dtype=torch.float64))
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
    net = Shared(ours.BatchRenorm1d(4, schedule="keras", dtype=torch.float64))
    y = checkpoint(net, torch.randn(6, 4, dtype=torch.float64).requires_grad_(), use_reentrant=False).sum()
    first = torch.autograd.grad(y, net.first.weight, retain_graph=True)
    second = torch.autograd.grad(y, net.first.weight)
    assert torch.equal(first[0], second[0])
    assert net.norm.num_batches_tracked == 2


def test_accumulating_makes_one_update_from_the_merged_batch():
    layer, whole = ours.BatchNorm2d(3), ours.BatchNorm2d(3)
    x = torch.randn(10, 3, 4, 4) + torch.arange(10.0).view(-1, 1, 1, 1)
    with accumulate(nn.Sequential(layer)):
        for part in x.split([4, 4, 2]):
            y = layer(part)
        assert layer.running_mean.sum() == 0
    whole(x)
    torch.testing.assert_close(layer.running_mean, whole.running_mean)
    torch.testing.assert_close(layer.running_var, whole.running_var)
    assert layer.num_batches_tracked == 1
    torch.testing.assert_close(y, ours.BatchNorm2d(3)(x[8:]))


def test_accumulating_ghost_batches_averages_all_of_them():
    layer, whole = ours.BatchNorm1d(3, ghost_batch_size=4), ours.BatchNorm1d(3, ghost_batch_size=4)
    x = torch.randn(16, 3)
    with accumulate(layer):
        layer(x[:8])
        layer(x[8:])
    whole(x)
    torch.testing.assert_close(layer.running_var, whole.running_var)


def test_accumulating_commits_nothing_when_it_fails():
    layer = ours.BatchNorm1d(3)

    def fail():
        with accumulate(layer):
            layer(torch.randn(4, 3))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert layer.num_batches_tracked == 0
    layer(torch.randn(4, 3))
    assert layer.num_batches_tracked == 1
    with accumulate(layer), pytest.raises(InputError, match="not accumulating yet"), accumulate(layer):
        pass


@pytest.mark.parametrize("context", [accumulate, lambda model: use_mask(model, None)])
def test_contexts_refuse_models_without_our_norms(context):
    with (
        pytest.raises(InputError, match="expected a model with norms of normsmith, got Linear"),
        context(nn.Linear(2, 2)),
    ):
        pass


def test_masks_reach_nested_norms_and_go_again():
    net = nn.Sequential(
        nn.Linear(3, 4), nn.Sequential(ours.BatchNorm1d(4), nn.ReLU()), ours.BatchNormAct1d(4)
    )
    x, mask = torch.randn(6, 3), torch.tensor([1, 1, 1, 1, 0, 0])
    twin = copy.deepcopy(net)
    with use_mask(net, mask):
        y = net(x)
        with use_mask(net, None):
            assert (net(x)[4:] != 0).any()
        assert net[2].context_mask is mask
    assert (y[4:] == 0).all()
    torch.testing.assert_close(y[:4], twin(x[:4]))
    assert net[2].context_mask is None


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.ones(6, 5, dtype=torch.bool), r"mask: expected shape \(6, 4\)"),
        (torch.ones(6, dtype=torch.bool), r"mask: expected shape \(6, 4\)"),
        (torch.ones(6, 4), "mask: expected bool or 0/1 integers.*key_padding_mask"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, says):
    layer = ours.BatchNorm1d(3)
    with pytest.raises(InputError, match=says):
        layer(torch.randn(6, 3, 4), mask=mask)
    assert layer.num_batches_tracked == 0


def test_nothing_valid_is_defined_and_updates_nothing():
    for layer in norms(torch.float32):
        x = torch.full((6, 4), torch.nan).requires_grad_()
        mean = layer.running_mean.clone()
        y = layer(x, mask=torch.zeros(6, dtype=torch.bool))
        assert (y == 0).all()
        y.sum().backward()
        assert (x.grad == 0).all()
        assert torch.equal(layer.running_mean, mean)


def test_one_running_sequence_goes_by_the_running_statistics():
    layer = ours.BatchNorm1d(3)
    layer.running_mean.fill_(1.0)
    x = torch.randn(4, 3)
    y = layer(x, mask=torch.tensor([0, 1, 0, 0]))
    torch.testing.assert_close(y[1], (x[1] - 1) / (1 + 1e-5) ** 0.5)
    assert (layer.running_mean == 1).all()


def test_weights_of_zero_count_nowhere_but_are_normalised():
    layer, twin = ours.BatchNorm1d(3), ours.BatchNorm1d(3)
    x = torch.randn(6, 3)
    y = layer(x, sample_weight=torch.tensor([2.0, 2, 2, 2, 0, 0]))
    torch.testing.assert_close(y[:4], twin(x[:4]))
    assert (y[4:] != 0).all()
    torch.testing.assert_close(layer.running_var, twin.running_var)


def test_negative_weights_are_refused():
    layer = ours.BatchNorm1d(3)
    with pytest.raises(InputError, match="weights ≥ 0, got a smallest value of -1"):
        layer(torch.randn(2, 3), sample_weight=torch.tensor([1.0, -1.0]))


def test_a_residual_must_have_the_inputs_shape(unchecked):
    with pytest.raises(InputError, match="residual"):
        ours.BatchNormAct1d(3)(torch.randn(2, 3), residual=torch.randn(2, 1))


def test_ghost_batches_of_one_value_are_refused_where_shapes_tell():
    with pytest.raises(InputError, match="ghost batches of more than one value"):
        ours.BatchNorm1d(3, ghost_batch_size=1)(torch.randn(4, 3))
    ours.BatchNorm2d(3, ghost_batch_size=1)(torch.randn(4, 3, 2, 2))


def test_ghost_batches_leave_evaluation_alone():
    ghost, plain = ours.BatchNorm1d(3, ghost_batch_size=4), ours.BatchNorm1d(3)
    ghost(torch.randn(10, 3))
    plain.load_state_dict(ghost.state_dict())
    x = torch.randn(9, 3)
    assert torch.equal(ghost.eval()(x), plain.eval()(x))


def test_an_overflow_does_not_poison_the_statistics():
    """pytorch#88474: one fp16 overflow, and torch's statistics are NaN for good."""
    ours_, theirs = ours.BatchNorm1d(3), nn.BatchNorm1d(3)
    for layer in (ours_, theirs):
        for step in range(10):
            x = torch.randn(8, 3)
            if step == 5:
                x[0, 1] = torch.inf
            layer(x)
    assert theirs.running_var.isnan().any()
    assert ours_.running_var.isfinite().all()
    assert ours.BatchNorm1d(3, on_nonfinite="propagate")(torch.full((4, 3), torch.inf)).isnan().any()


def test_freezing_needs_statistics_and_pins_what_it_is_told():
    with pytest.raises(InputError, match="expected running statistics to freeze to"):
        ours.BatchNorm1d(3, track_running_stats=False).freeze()
    layer = ours.BatchNorm1d(3).freeze("batch")
    x = torch.randn(8, 3)
    torch.testing.assert_close(layer.eval()(x), ours.BatchNorm1d(3)(x))
    assert layer.num_batches_tracked == 0
    assert "frozen to batch statistics" in repr(layer)
    assert layer.weight.requires_grad


def test_gradients_do_not_change_when_buffers_do():
    """Under DDP a broadcast lands between forward and backward."""
    for training in (True, False):
        for layer in norms():
            layer.train(training)
            x = torch.randn(6, 4, dtype=torch.float64).requires_grad_()
            y = layer(x)
            want = torch.autograd.grad(y.sum() * 2, x, retain_graph=True)[0]
            layer.running_mean.data.add_(100)
            layer.running_var.data.mul_(100)
            assert torch.equal(torch.autograd.grad(y.sum() * 2, x)[0], want)


def test_training_with_padding_and_a_mask_equals_training_on_the_unpadded_sequences():
    lengths, channels = [5, 2, 7, 3], 3
    padded_net = nn.ModuleList([nn.Linear(channels, 4), ours.BatchNorm1d(4), nn.Linear(4, 1)]).double()
    flat_net = copy.deepcopy(padded_net)
    sequences = [torch.randn(length, channels, dtype=torch.float64) for length in lengths]
    padded = nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=1e6)
    mask = torch.arange(padded.shape[1]) < torch.tensor(lengths)[:, None]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (padded_net, flat_net)]
    for _ in range(20):
        first, norm, last = padded_net
        y = last(torch.tanh(norm(first(padded).transpose(1, 2), mask=mask)).transpose(1, 2))
        losses = [(y[..., 0].square() * mask).sum() / mask.sum()]
        first, norm, last = flat_net
        losses.append(last(torch.tanh(norm(first(torch.cat(sequences))))).square().mean())
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for one, other in zip(padded_net.state_dict().values(), flat_net.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)
