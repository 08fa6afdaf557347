"""Lazy layers: before their first input, at it, and after."""

import pickle

import pytest
import torch
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers import (
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
    LazyBatchRenorm1d,
    LazyBatchRenorm2d,
    LazyBatchRenorm3d,
)

NORMS = [(LazyBatchNorm1d, ()), (LazyBatchNorm2d, (3, 3)), (LazyBatchNorm3d, (2, 3, 3))]
RENORMS = [(LazyBatchRenorm1d, ()), (LazyBatchRenorm2d, (3, 3)), (LazyBatchRenorm3d, (2, 3, 3))]


@pytest.mark.parametrize(("lazy", "space"), NORMS, ids=lambda value: getattr(value, "__name__", ""))
def test_computes_what_torchs_lazy_norm_computes(lazy, space):
    layer, theirs = lazy(), getattr(nn, lazy.__name__)()
    x = torch.randn(6, 4, *space)
    torch.testing.assert_close(layer(x), theirs(x))
    torch.testing.assert_close(layer.state_dict(), theirs.state_dict())
    torch.testing.assert_close(layer.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(("lazy", "space"), RENORMS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("track", ["var", "std"])
def test_renorm_is_the_eager_layer_from_its_first_forward_on(lazy, space, track):
    options = {"schedule": "constant", "track": track}
    layer = lazy(**options)
    eager = getattr(ours, lazy.__name__.removeprefix("Lazy"))(4, **options)
    for _ in range(2):
        x = torch.randn(6, 4, *space) * 3 + 1
        torch.testing.assert_close(layer(x), eager(x), rtol=0, atol=0)
    torch.testing.assert_close(layer.state_dict(), eager.state_dict())
    assert ("running_std" in layer.state_dict()) == (track == "std")


def test_a_checkpoint_tells_the_number_of_channels():
    trained = nn.BatchNorm1d(5)
    trained(torch.randn(8, 5) + 2)
    layer = LazyBatchNorm1d()
    layer.load_state_dict(trained.state_dict())
    x = torch.randn(3, 5)
    torch.testing.assert_close(layer.eval()(x), trained.eval()(x))
    assert layer.num_features == 5


def test_a_layer_without_state_takes_any_number_of_channels_at_first():
    layer = LazyBatchNorm1d(affine=False, track_running_stats=False)
    assert layer(torch.randn(4, 3)).shape == (4, 3)
    assert layer.num_features == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_running_statistics_are_float32_as_soon_as_they_exist(dtype):
    layer = LazyBatchRenorm1d(schedule="constant", track="std", dtype=dtype)
    layer(torch.randn(4, 3, dtype=dtype))
    assert {b.dtype for name, b in layer.named_buffers() if name != "num_batches_tracked"} == {torch.float32}
    assert layer.weight.dtype == dtype


def test_pickled_before_the_first_input_it_is_lazy_and_keeps_its_settings():
    twin = pickle.loads(pickle.dumps(LazyBatchNorm1d(ghost_batch_size=2, on_nonfinite="propagate")))
    assert twin.has_uninitialized_params()
    twin(torch.randn(4, 3))
    assert (twin.num_features, twin.ghost_batch_size, twin.on_nonfinite) == (3, 2, "propagate")


def test_an_input_without_channels_is_refused_and_the_layer_stays_lazy():
    layer = LazyBatchNorm1d()
    with pytest.raises(InputError, match=r"expected an input of shape \(batch, channels"):
        layer(torch.randn(4))
    assert layer.has_uninitialized_params()
    assert layer(torch.randn(4, 3)).shape == (4, 3)


def test_after_the_first_input_the_number_of_channels_is_settled():
    layer = LazyBatchNorm2d()
    layer(torch.randn(2, 3, 4, 4))
    with pytest.raises(InputError, match="expected 3 channels"):
        layer(torch.randn(2, 5, 4, 4))
