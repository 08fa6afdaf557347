"""Torch's fusers and converters: right for what is plain, refused where a layer does more."""

import copy
import warnings

import pytest
import torch
from tests.layers.kinds import ACT, PLAIN, RENORM, SPACES, batch, make
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError, SurgeryError


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
        make("BatchNorm2d").freeze("batch"),
        make("BatchRenorm1d", track="std"),
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

        with pytest.raises(SurgeryError, match=r"fuses torch's own batch norms only, .* fold it first"):
            fuse_modules(net, [["0", "1"]])


@pytest.mark.parametrize("name", PLAIN + RENORM + ACT)
def test_what_quantisation_leaves_on_a_layer_is_an_attribute_as_any_other(name):
    layer = make(name)
    with pytest.raises(AttributeError, match=f"{name} has no qconfig: torch's quantisation has not set one"):
        layer.qconfig  # noqa: B018
    assert not hasattr(layer, "qconfig")
    layer.qconfig = "something"
    assert layer.qconfig == copy.deepcopy(layer).qconfig == "something"
    del layer.qconfig
    assert not hasattr(layer, "qconfig")
    with pytest.raises(AttributeError, match="no qconfig to delete"):
        del layer.qconfig


@pytest.mark.parametrize("copied", [False, True], ids=["torch", "another library"])
def test_functions_like_convert_sync_batchnorm_are_refused_by_their_question(copied):
    def convert_sync_batchnorm(module):  # as in timm, which asks the same
        return hasattr(module, "qconfig")

    convert = convert_sync_batchnorm if copied else nn.SyncBatchNorm.convert_sync_batchnorm
    with pytest.raises(SurgeryError, match="would silently drop the renormalization"):
        convert(make("BatchRenorm2d"))


@pytest.mark.parametrize("eps", [-1e-5, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", [*PLAIN, *RENORM, *ACT, "LazyBatchNorm1d", "Whiten1d", "InputNorm"])
def test_an_eps_below_zero_or_no_number_is_refused_when_made_and_when_set(name, eps):
    kind = getattr(ours, name)
    options = {"schedule": "keras", "track": "var"} if "Renorm" in name else {}
    options |= {} if "Lazy" in name else {"num_features": 3}
    with pytest.raises(ValueError, match="eps: expected a finite number ≥ 0") as refused:
        kind(eps=eps, **options)
    assert isinstance(refused.value, InputError)
    layer = kind(eps=0, **options)
    with pytest.raises(InputError, match="eps: expected"):
        layer.eps = eps
    assert layer.epsilon == 0


@pytest.mark.parametrize("name", ["BatchNormLSTM", "BatchNormGRU"])
def test_recurrent_layers_refuse_a_negative_eps(name):
    with pytest.raises(InputError, match="eps: expected"):
        getattr(ours, name)(2, 3, eps=-1.0)
