"""Drop-in: the same constructor, state, numbers and gradients as torch's layers, wherever torch has the feature."""

import inspect

import pytest
import torch
from torch import nn

import normsmith.layers as ours
from normsmith._torch import NORMS_TAKE_BIAS
from normsmith.errors import InputError

CASES = [
    pytest.param("BatchNorm1d", (16, 5), id="1d rows"),
    pytest.param("BatchNorm1d", (16, 5, 7), id="1d sequences"),
    pytest.param("BatchNorm2d", (8, 5, 4, 3), id="2d"),
    pytest.param("BatchNorm3d", (4, 5, 2, 3, 2), id="3d"),
]
OPTIONS = [
    {},
    {"affine": False},
    *([{"bias": False}] if NORMS_TAKE_BIAS else []),
    {"track_running_stats": False},
    {"momentum": None},
    {"momentum": 0.3, "eps": 1e-2},
]


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_and_evaluation_equal_torch(name, shape, options, dtype):
    theirs = getattr(nn, name)(5, dtype=dtype, **options)
    mine = getattr(ours, name)(5, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.5)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for training in (True, True, False):
        x, g = torch.randn(shape, dtype=dtype) * 2 + 1, torch.randn(shape, dtype=dtype)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [layer.train(training)(value) for layer, value in zip((mine, theirs), inputs, strict=True)]
        torch.testing.assert_close(outputs[0], outputs[1], rtol=tolerance, atol=2 * tolerance)
        mine.zero_grad()
        theirs.zero_grad()
        for output in outputs:
            output.backward(g)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=tolerance, atol=2 * tolerance)
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            scale = other.grad.abs().max()
            torch.testing.assert_close(
                one.grad / scale, other.grad / scale, rtol=tolerance, atol=2 * tolerance
            )
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[key], value, rtol=tolerance, atol=tolerance)
    theirs.load_state_dict(mine.state_dict(), strict=True)
    assert isinstance(mine, getattr(nn, name))
    assert repr(mine) == repr(theirs)


@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchRenorm2d", "BatchNorm3d"])
def test_constructor_takes_torchs_arguments_in_torchs_order(name):
    parameters = inspect.signature(nn.BatchNorm1d.__init__).parameters
    positional = [5, 1e-3, 0.2, True, True, "cpu", torch.float64]
    layer = getattr(ours, name)(*positional, **({"bias": False} if "bias" in parameters else {}))
    assert (layer.eps, layer.momentum, layer.weight.dtype) == (1e-3, 0.2, torch.float64)
    assert layer.bias is None or "bias" not in parameters
    with pytest.raises(TypeError):
        getattr(ours, name)(5, unknown=1)


@pytest.mark.parametrize(
    "settings",
    [
        {"ghost_batch_size": 0},
        {"ghost_batch_size": 2.0},
        {"on_small_batch": "hope"},
        {"on_nonfinite": "?"},
        {"process_group": "all"},
    ],
)
def test_constructor_refuses_what_it_cannot_mean(unchecked, settings):
    with pytest.raises(InputError, match="expected"):
        ours.BatchNorm1d(3, **settings)


def test_a_mean_of_1e4_keeps_the_digits_that_torch_loses():
    x = torch.randn(256, 8) + 1e4
    exact = (x.double() - x.double().mean(0)) / (x.double().var(0, correction=0) + 1e-5).sqrt()
    for row in ("aten", "reference"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NORMSMITH_BACKEND", row)
            y = ours.BatchNorm1d(8, affine=False)(x)
        assert (y - exact).abs().max() < 1e-5
    assert (nn.BatchNorm1d(8, affine=False)(x) - exact).abs().max() > 1e-4


def test_old_checkpoints_without_a_counter_load():
    state = {
        key: value for key, value in nn.BatchNorm1d(3).state_dict().items() if key != "num_batches_tracked"
    }
    ours.BatchNorm1d(3).load_state_dict(state)


def test_turning_training_off_by_hand_is_evaluation():
    layer = ours.BatchNorm1d(3)
    layer.training = False
    x = torch.randn(8, 3)
    torch.testing.assert_close(layer(x), x / (1 + 1e-5) ** 0.5)


def test_update_bn_of_torch_finds_the_layers():
    net = nn.Sequential(ours.BatchNorm1d(3))
    batches = [torch.randn(8, 3) + 5 for _ in range(4)]
    torch.optim.swa_utils.update_bn(batches, net)
    torch.testing.assert_close(net[0].running_mean, torch.stack(batches).mean((0, 1)))
