"""Whitening layers: the contract of every layer, where it speaks of variances in terms of matrices."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any, ClassVar

import pytest
import torch
from tests.contracts.layer import LayerContract
from torch import nn
from torch.utils.checkpoint import checkpoint

from normsmith import layers
from normsmith._torch import NORMS_TAKE_BIAS
from normsmith.errors import InputError
from normsmith.layers import Whiten1d, Whiten2d, accumulate, use_mask


# torch's compiler instantiates autograd functions, against which torch itself warns
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
class WhiteningContract(LayerContract):
    """Overrides what names `running_var`, and batches too small for a covariance."""

    def test_state_goes_round_and_twins_agree(self):
        layer, twin = self.trained(), self.make()
        stored = io.BytesIO()
        torch.save(layer.state_dict(), stored)
        stored.seek(0)
        twin.load_state_dict(torch.load(stored, weights_only=True))
        x = self.batch()
        assert torch.equal(twin(x), layer(x))
        assert torch.equal(twin.running_whitening, layer.running_whitening)
        assert "running_var" not in layer.state_dict()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtypes(self, dtype):
        layer = self.make()
        layer.running_whitening.fill_(100.03)
        layer.to(dtype)
        for buffer in (layer.running_mean, layer.running_whitening):
            assert buffer.dtype == torch.promote_types(dtype, torch.float32)
        assert abs(layer.running_whitening[0, 0, 0].item() - 100.03) < 1e-4
        x = self.batch(dtype=dtype).requires_grad_()
        y = layer(x)
        assert y.dtype == dtype
        y.sum().backward()
        assert x.grad.dtype == dtype
        assert layer.eval()(x).dtype == dtype

    def test_half_precision_checkpoints_keep_float32_statistics(self):
        layer = self.make()
        halves = {
            key: value.half() if value.is_floating_point() else value
            for key, value in layer.state_dict().items()
        }
        layer.load_state_dict(halves, assign=True)
        assert layer.running_whitening.dtype == torch.float32
        assert layer(self.batch().half()).dtype == torch.float16
        assert self.make(dtype=torch.bfloat16).running_whitening.dtype == torch.float32

    def test_one_value_per_channel(self):
        """Nor are there enough when there are as many values as channels in a group."""
        size = self.channels // self.options.get("groups", 1)
        positions = torch.Size(self.space).numel()
        rows = max(size // positions, 1)
        x = self.batch(rows=rows)[(slice(None), slice(None), *[slice(1)] * len(self.space))]
        layer = self.trained()
        before = copy.deepcopy(layer.state_dict())
        with pytest.raises(InputError, match=rf"than the {size} channels"):
            layer(x)
        assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
        lenient = self.trained(on_small_batch="running")
        y = lenient(x)
        assert torch.equal(y, copy.deepcopy(lenient).eval()(x))

    @pytest.mark.parametrize("training", [True, False])
    def test_gradients(self, training):
        layer = self.trained(dtype=torch.float64).train(training).freeze("batch" if training else "running")
        names = [name for name, _ in layer.named_parameters()]
        x = self.batch(rows=4, dtype=torch.float64).requires_grad_()
        inputs = (x, *(p.detach().clone().requires_grad_() for p in layer.parameters()))

        def run(x, *parameters):
            return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

        assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)

    def check_mask(self, rows, seed, share):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, self.channels, *self.space, generator=generator, dtype=torch.float64)
        mask = torch.rand(rows, *self.space, generator=generator) < share
        padded = torch.where(mask.unsqueeze(1), x, torch.nan).requires_grad_()
        layer = self.trained(dtype=torch.float64, on_small_batch="running")
        valid = x.transpose(0, 1)[:, mask].T.reshape(-1, self.channels, *[1] * len(self.space))
        alone = copy.deepcopy(layer)
        valid.requires_grad_()
        y, want = layer(padded, mask=mask), alone(valid)
        y.square().sum().backward()
        want.square().sum().backward()
        torch.testing.assert_close(y.transpose(0, 1)[:, mask].T.reshape(want.shape), want)
        torch.testing.assert_close(padded.grad.transpose(0, 1)[:, mask].T.reshape(want.shape), valid.grad)
        assert (padded.grad.transpose(0, 1)[:, ~mask] == 0).all()
        assert (y.transpose(0, 1)[:, ~mask] == 0).all()
        torch.testing.assert_close(layer.running_mean, alone.running_mean)
        torch.testing.assert_close(layer.running_whitening, alone.running_whitening)


class TestWhiten1d(WhiteningContract):
    layer = Whiten1d


class TestSequences(WhiteningContract):
    layer = Whiten1d
    space = (5,)
    options: ClassVar[dict[str, Any]] = {"method": "newton", "iterations": 4}


class TestWhiten2d(WhiteningContract):
    layer = Whiten2d
    space = (4, 3)


class TestGroupsOfOne(WhiteningContract):
    layer = Whiten2d
    space = (4, 3)
    options: ClassVar[dict[str, Any]] = {"groups": 3}

    @pytest.mark.parametrize("method", ["zca", "newton"])
    def test_is_batch_norm_in_training(self, method):
        ours = layers.Whiten2d(3, groups=3, method=method)
        theirs = nn.BatchNorm2d(3)
        x = self.batch()
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)


def test_training_whitens_and_evaluation_comes_near():
    mix = torch.randn(4, 4, dtype=torch.float64) + torch.eye(4, dtype=torch.float64)
    layer = Whiten1d(4, affine=False, dtype=torch.float64)
    identity = torch.eye(4, dtype=torch.float64)
    for _ in range(60):
        x = torch.randn(512, 4, dtype=torch.float64) @ mix + 3
        y = layer(x)
    torch.testing.assert_close(y.T @ y / 512, identity, atol=1e-3, rtol=0)
    evaluated = layer.eval()(torch.randn(20000, 4, dtype=torch.float64) @ mix + 3)
    assert (evaluated.mean(0).abs() < 0.1).all()
    torch.testing.assert_close(evaluated.T.cov(), identity, atol=0.15, rtol=0)
    stored = layer.running_whitening.clone()
    layer.running_whitening.mul_(2)
    torch.testing.assert_close(layer(x), 2 * (x - layer.running_mean) @ stored[0])


def test_newton_approaches_zca():
    x = torch.randn(256, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    exact = Whiten1d(6, dtype=torch.float64, eps=1e-3)(x)
    errors = [
        (Whiten1d(6, method="newton", iterations=n, dtype=torch.float64, eps=1e-3)(x) - exact).norm().item()
        for n in (2, 5, 10, 30)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-8


def test_accumulate_is_one_update_from_the_covariance_of_all():
    parts = [torch.randn(9, 4) + 1, torch.randn(5, 4) - 1]
    layer, whole = Whiten1d(4, groups=2), Whiten1d(4, groups=2)
    with accumulate(layer):
        for part in parts:
            layer(part)
    whole(torch.cat(parts))
    assert layer.num_batches_tracked == 1
    torch.testing.assert_close(layer.running_mean, whole.running_mean)
    torch.testing.assert_close(layer.running_whitening, whole.running_whitening)


def test_use_mask_reaches_it():
    net, x = nn.Sequential(Whiten1d(3)), torch.randn(12, 3)
    mask = torch.arange(12) < 9
    with use_mask(net, mask):
        y = net(x)
    assert (y[9:] == 0).all()
    torch.testing.assert_close(y[:9], Whiten1d(3)(x[:9]))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_nothing(reentrant):
    plain = Whiten1d(3)
    plain(torch.randn(20, 3) * 3)
    again = copy.deepcopy(plain)
    x = torch.randn(12, 3, requires_grad=True)
    mask = torch.arange(12) < 3  # too few: by the running statistics, before the update
    for given, updates in ((mask, 2), (None, 3)):
        (wanted,) = torch.autograd.grad(plain(x, given).pow(3).sum(), x)
        y = checkpoint(again, x, given, use_reentrant=reentrant)
        (got,) = torch.autograd.grad(y.pow(3).sum(), x) if not reentrant else (_backward(y, x),)
        torch.testing.assert_close(got, wanted)
        assert again.num_batches_tracked == updates
        torch.testing.assert_close(again.running_whitening, plain.running_whitening)


def _backward(y, x):
    x.grad = None
    y.pow(3).sum().backward()
    return x.grad


def test_without_running_statistics():
    layer = Whiten1d(3, track_running_stats=False, affine=False)
    assert not layer.state_dict()
    x = torch.randn(12, 3)
    torch.testing.assert_close(layer(x), layer.eval()(x))
    layer.reset_parameters()


def test_vmap_over_stacked_models():
    models = [Whiten1d(3) for _ in range(2)]
    singles, x = [copy.deepcopy(model) for model in models], torch.randn(12, 3)
    parameters, buffers = torch.func.stack_module_state(models)
    got = torch.func.vmap(lambda p, b: torch.func.functional_call(models[0], (p, b), (x,)))(
        parameters, buffers
    )
    torch.testing.assert_close(got, torch.stack([single(x) for single in singles]))
    stacked = torch.stack([single.running_whitening for single in singles])
    torch.testing.assert_close(buffers["running_whitening"], stacked)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_features": 0}, "num_features: expected a positive whole number, got 0"),
        ({"groups": 4}, "groups: expected a divisor of num_features=6, got 4"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_bad_settings(options, says):
    with pytest.raises(InputError, match=says):
        Whiten1d(**{"num_features": 6, **options})


@pytest.mark.compiles  # other annotations are checked with the shapes: here the layer's own words are seen
def test_unknown_method():
    with pytest.raises(InputError, match="method: expected one of 'zca', 'newton'; got 'pca'"):
        Whiten1d(6, method="pca")


def test_torchs_converters_do_not_take_it_for_a_batch_norm():
    net = nn.Sequential(Whiten1d(3))
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(net)[0], Whiten1d)


def test_repr_says_how_it_whitens():
    bias = ", bias=True" * NORMS_TAKE_BIAS
    assert repr(Whiten1d(6, groups=2)) == (
        f"Whiten1d(6, eps=1e-05, momentum=0.1, affine=True{bias}, track_running_stats=True, groups=2, method='zca')"
    )
    assert repr(Whiten2d(6, method="newton")).endswith("groups=1, method='newton', iterations=5)")


def test_pickles_of_half_trained_layers():
    layer = Whiten2d(4, groups=2)
    with accumulate(layer):
        layer(torch.randn(3, 4, 2, 2))
        twin = pickle.loads(pickle.dumps(layer))
    assert not twin.is_accumulating
