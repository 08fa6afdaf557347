"""What every norm does with masks, weights, ghost batches and bad batches; what other floors read of it; its state."""

import copy

import pytest
import torch
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers import use_mask


def norms(dtype=torch.float64):
    yield ours.BatchNorm1d(4, dtype=dtype)
    yield ours.BatchNorm1d(4, dtype=dtype, ghost_batch_size=3)
    yield ours.BatchRenorm1d(4, schedule="keras", track="var", dtype=dtype, momentum=0.5)
    yield ours.BatchRenormAct1d(4, total_steps=20, dtype=dtype, activation="gelu", momentum=0.5)


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


def test_one_valid_sample_is_normalised_by_the_running_statistics():
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


def test_what_a_call_normalises_takes_the_nearest_mask():
    layer, x = ours.BatchNorm1d(3), torch.randn(4, 3)
    own, other, third = (torch.arange(4) < count for count in (1, 2, 3))
    assert layer.normalised(x) == (x, None, None)
    assert layer.normalised(x, default_mask=third).mask is third
    with use_mask(layer, other):
        assert layer.normalised(x).mask is other
        assert layer.normalised(x, default_mask=third).mask is third
        assert layer.normalised(x, own, default_mask=third).mask is own
    weight = torch.ones(4)
    assert layer.normalised(x, None, weight).sample_weight is weight


@pytest.mark.parametrize(
    ("layer", "is_batch_norm", "measurable"),
    [
        (ours.BatchNorm2d(3), True, True),
        (ours.LazyBatchRenorm1d(total_steps=5), True, True),
        (ours.BatchNormAct1d(3), True, True),
        (ours.InputNorm(3), False, True),
        (ours.Whiten1d(3), False, False),
        (ours.BatchNormLSTM(2, 3).l0.norm_hh, False, False),
        (ours.BatchNormLSTM(2, 3, normalize="input").l0.norm_ih, False, True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_say_what_they_are(layer, is_batch_norm, measurable):
    assert layer.is_batch_norm == is_batch_norm
    assert (layer.unmeasurable is None) == measurable


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", [ours.BatchNorm1d, ours.BatchNormAct1d, ours.Whiten1d, ours.InputNorm])
def test_an_empty_batch_is_not_counted(kind, momentum):
    layer = kind(3, momentum=momentum)
    layer(torch.randn(8, 3))
    before = copy.deepcopy(layer.state_dict())
    assert layer(torch.empty(0, 3)).shape == (0, 3)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_empty_batch_does_not_advance_a_schedule():
    layer = ours.BatchRenorm1d(3, total_steps=10)
    layer(torch.empty(0, 3))
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 2, 2), (4,)])
def test_a_wrong_shape_is_a_value_error_in_every_mode(training, shape):
    with pytest.raises(ValueError, match=r"^BatchNorm1d: "):
        ours.BatchNorm1d(3).train(training)(torch.randn(shape))
