"""Adaptation to the data that is met: the formula, on every kind of layer, and nothing left after."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.states import state_of
from torch import nn

from normsmith.errors import InputError, SurgeryError
from normsmith.layers import BatchNorm1d, BatchNorm2d, BatchRenorm1d, use_mask
from normsmith.surgery import adapt

KINDS = [nn.BatchNorm1d, BatchNorm1d, BatchRenorm1d, nn.SyncBatchNorm]


def lived_in(layer):
    """Statistics and affine of some source."""
    with torch.no_grad():
        layer.running_mean.uniform_(-1, 1)
        layer.running_var.uniform_(0.5, 2)
        layer.weight.uniform_(0.5, 2)
        layer.bias.uniform_(-1, 1)
    return layer.eval()


def expected(layer, x, target, prior):
    """The formula, by hand, in float64."""
    others = [0, *range(2, x.ndim)]
    shape = (1, -1, *[1] * (x.ndim - 2))
    var, mean = torch.var_mean(target.double(), others, correction=0)
    mean = prior * layer.running_mean.double() + (1 - prior) * mean
    var = prior * layer.running_var.double() + (1 - prior) * var
    hat = (x.double() - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
    return (hat * layer.weight.double().view(shape) + layer.bias.double().view(shape)).float()


@pytest.mark.parametrize("prior", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_is_its_own_target(kind, prior):
    layer = lived_in(kind(4))
    batches = [torch.randn(8, 4) + 3, torch.randn(5, 4) * 4]
    wanted = [expected(layer, x, x, prior) for x in batches]
    with adapt(layer, prior=prior):
        found = [layer(x) for x in batches]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_is_the_target_of_all_batches(kind):
    layer, target, x = lived_in(kind(4)), torch.randn(11, 4) * 2 - 1, torch.randn(3, 4)
    wanted = expected(layer, x, target, 0.25)
    with adapt(layer, [(target[:9],), (target[9:],)], prior=0.25) as adapted:
        torch.testing.assert_close(adapted(x), wanted)
        torch.testing.assert_close(layer(x[:1]), wanted[:1])  # whatever else is in the batch


def test_the_prior_of_so_many_source_samples():
    layer, x = lived_in(BatchNorm2d(3)), torch.randn(6, 3, 5, 5) + 1
    by_batch, by_all = expected(layer, x, x, 18 / 24), expected(layer, x, x, 18 / 24)
    with adapt(layer, source_samples=18):
        torch.testing.assert_close(layer(x), by_batch)
    with adapt(layer, x.split(4), source_samples=18):
        torch.testing.assert_close(layer(x), by_all)


def test_one_image_has_statistics_and_one_value_has_none():
    images, rows = lived_in(nn.BatchNorm2d(2)), lived_in(nn.BatchNorm1d(2))
    image, row = torch.randn(1, 2, 4, 4), torch.randn(1, 2)
    wanted, source = expected(images, image, image, 0.5), rows(row)
    with adapt(images, prior=0.5), adapt(rows, prior=0.0):
        torch.testing.assert_close(images(image), wanted)
        assert torch.equal(rows(row), source)


def test_with_prior_one_nothing_changes():
    network = nn.Sequential(lived_in(nn.BatchNorm1d(4)), nn.Linear(4, 4), lived_in(nn.BatchNorm1d(4)))
    network, x = network.eval(), torch.randn(9, 4)
    before = network(x)
    with adapt(network, prior=1.0):
        assert torch.equal(network(x), before)


def test_with_prior_zero_layers_normalise_as_in_training():
    network = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4))
    x = torch.randn(9, 4) + 5
    wanted = network.train()(x)
    network.eval()
    with adapt(network, prior=0.0):
        torch.testing.assert_close(network(x), wanted)


def test_layers_after_others_see_adapted_inputs():
    torch.manual_seed(1)
    network = nn.Sequential(
        lived_in(nn.BatchNorm1d(4)), nn.Linear(4, 4), nn.ReLU(), lived_in(nn.BatchNorm1d(4))
    )
    target = torch.randn(30, 4) * 3 + 2
    source = network.eval()[3].running_mean.clone()
    with adapt(network, list(target.split(4)), prior=0.5, mode="exact"):
        held = network[3].running_mean.clone()
        inputs = network[2](network[1](network[0](target)))
    torch.testing.assert_close(held, 0.5 * source + 0.5 * inputs.mean(0), rtol=1e-4, atol=1e-5)


def test_masks_count():
    x, mask = torch.randn(6, 3) + 4, torch.arange(6) < 4
    layer = lived_in(BatchNorm1d(3))
    wanted = expected(layer, x, x[:4], 0.5)[:4]
    with adapt(layer, prior=0.5), use_mask(layer, mask):
        torch.testing.assert_close(layer(x)[:4], wanted)
    with adapt(layer, [(x, mask)], prior=0.5, mask=1):
        torch.testing.assert_close(layer(x)[:4], wanted)


def test_the_running_deviation_is_mixed_too():
    layer, x = BatchRenorm1d(2, track="std").eval(), torch.randn(50, 2) * 3
    with adapt(layer, prior=0.25):
        y = layer(x)
    deviation = 0.25 + 0.75 * (x.var(0, correction=0) + layer.epsilon).sqrt()
    torch.testing.assert_close(y, (x - 0.75 * x.mean(0)) / deviation, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", [None, [torch.ones(3, 4), torch.zeros(2, 4)]], ids=["batches", "loader"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_back_bit_for_bit(target, fails):
    network = nn.Sequential(lived_in(nn.BatchNorm1d(4)), nn.Dropout(), lived_in(BatchNorm1d(4)))
    network.eval()
    before = state_of(network)
    draws = torch.get_rng_state()
    try:
        with adapt(network, target, prior=0.5):
            for norm in (network[0], network[2]):
                norm.train()  # somebody's slip within the block
            network(torch.randn(5, 4))
            network(torch.randn(1, 4))
            if fails:
                raise RuntimeError("in the block")
    except RuntimeError:
        assert fails
    torch.set_rng_state(draws)
    assert state_of(network) == before


def test_gradients_take_the_statistics_as_constants():
    layer, x = lived_in(nn.BatchNorm1d(2)), torch.randn(5, 2, requires_grad=True)
    with adapt(layer, prior=0.0):
        layer(x).sum().backward()
    slope = layer.weight.detach() / (x.detach().var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(x.grad, slope.expand(5, 2))


def test_only_some_layers():
    network = nn.Sequential(lived_in(nn.BatchNorm1d(2)), lived_in(nn.BatchNorm1d(2))).eval()
    x = torch.randn(6, 2) + 9
    wanted = expected(network[0], x, x, 0.0)
    with adapt(network, prior=0.0, only="0"):
        torch.testing.assert_close(network(x), network[1](wanted))


def test_frozen_layers_stay():
    layer, x = lived_in(BatchNorm1d(2)), torch.randn(6, 2) + 9
    network = nn.Sequential(lived_in(BatchNorm1d(2)), layer.freeze()).eval()
    wanted = layer(expected(network[0], x, x, 0.0))
    with adapt(network, prior=0.0):
        torch.testing.assert_close(network(x), wanted)


@pytest.mark.parametrize(
    "options", [{}, {"prior": 0.5, "source_samples": 3}, {"prior": 1.5}, {"source_samples": -1}]
)
def test_arguments_that_do_not_fit(options):
    with pytest.raises(InputError), adapt(nn.BatchNorm1d(2), **options):
        pass


def test_a_model_without_batch_norm():
    with pytest.raises(SurgeryError, match="expected batch norm"), adapt(nn.Linear(2, 2), prior=0.5):
        pass
