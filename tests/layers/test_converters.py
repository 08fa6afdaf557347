"""Torch's fusers and converters: right for what is plain, refused where a layer does more."""

import copy
import warnings

import pytest
import torch
from tests.layers.kinds import ACT, PLAIN, RENORM, SPACES, batch, make
from torch import nn

from normsmith.errors import InputError, NormsmithError, SurgeryError


@pytest.mark.parametrize("name", PLAIN + RENORM)
def test_fuse_conv_bn_eval_is_right(name):
    kind = name[-2:]
    conv = getattr(nn, f"Conv{kind}")(2, 3, 1).eval()
    norm = make(name).eval()
    x = torch.randn(4, 2, *(SPACES[kind] or (5,)))
    fused = nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
    torch.testing.assert_close(fused(x), norm(conv(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ACT)
def test_fuse_conv_bn_eval_refuses_activations(name):
    conv = getattr(nn, f"Conv{name[-2:]}")(2, 3, 1).eval()
    with pytest.raises(InputError, match=f"{name} has no eps: torch's fusers"):
        nn.utils.fusion.fuse_conv_bn_eval(conv, make(name).eval())
    linear = nn.Linear(2, 3).eval()
    with pytest.raises(InputError, match="has no eps"):
        nn.utils.fusion.fuse_linear_bn_eval(linear, make(name).eval())


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (make("BatchRenorm1d", track="std"), "drop the running standard deviation"),
        (make("BatchNorm1d").freeze("batch"), "drop the statistics frozen to the batch's"),
    ],
    ids=["std", "frozen"],
)
def test_fusers_refuse_what_evaluates_unlike_torch(layer, says):
    conv, linear = nn.Conv1d(2, 3, 1).eval(), nn.Linear(2, 3).eval()
    with pytest.raises(InputError, match=says):
        nn.utils.fusion.fuse_conv_bn_eval(conv, layer.eval())
    with pytest.raises(InputError, match=says):
        nn.utils.fusion.fuse_linear_bn_eval(linear, layer)
    norm = layer.unfreeze()
    assert norm.epsilon == 1e-5
    assert "eps=1e-05" in repr(copy.deepcopy(norm))


def test_fuse_linear_bn_eval_is_right():
    linear, norm, x = nn.Linear(2, 3).eval(), make("BatchRenorm1d").eval(), torch.randn(4, 2)
    torch.testing.assert_close(nn.utils.fusion.fuse_linear_bn_eval(linear, norm)(x), norm(linear(x)))


@pytest.mark.parametrize("name", PLAIN)
def test_convert_sync_batchnorm_of_a_plain_layer_is_right(name):
    layer = make(name).eval()
    net = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(copy.deepcopy(layer)))
    assert isinstance(net[0], nn.SyncBatchNorm)
    x = batch(name)
    torch.testing.assert_close(net(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        *(make(name) for name in RENORM),
        make("BatchNorm1d", ghost_batch_size=2),
        make("BatchNorm1d", process_group="world"),
        make("BatchNorm1d", on_small_batch="running"),
        make("BatchNorm2d").freeze(),
    ],
    ids=lambda layer: repr(layer)[:60],
)
def test_convert_sync_batchnorm_refuses_what_it_would_drop(layer):
    with pytest.raises(SurgeryError, match="would silently drop"):
        nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(layer))


@pytest.mark.parametrize("name", ACT)
def test_convert_sync_batchnorm_leaves_activations_alone(name):
    net = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(make(name)))
    assert type(net[0]).__name__ == name


@pytest.mark.parametrize("name", [name for name in PLAIN + RENORM + ACT if not name.endswith("1d")])
def test_quantisation_fusers_refuse(name):
    net = nn.Sequential(getattr(nn, f"Conv{name[-2:]}")(2, 3, 1), make(name)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its own quantisation
        from torch.ao.quantization import fuse_modules

        with pytest.raises((AssertionError, NormsmithError), match=r"did not find fuser|drop"):
            fuse_modules(net, [["0", "1"]])


def test_a_quantisation_config_is_kept_by_a_plain_layer_and_refused_by_others():
    plain, ghost = make("BatchNorm1d"), make("BatchNorm1d", ghost_batch_size=2)
    assert not hasattr(plain, "qconfig")
    plain.qconfig = "something"
    assert plain.qconfig == "something"
    ghost.qconfig = None
    with pytest.raises(SurgeryError, match="would silently drop ghost_batch_size"):
        ghost.qconfig = "something"
