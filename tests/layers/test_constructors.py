"""What reads a constructor: torch's `skip_init`, factories, the meta device. Each layer says what it takes."""

import functools
import inspect

import pytest
import torch
from torch import nn
from torch.nn.utils import skip_init

import normsmith.layers as ours
from normsmith._torch import NORMS_TAKE_BIAS
from normsmith.errors import InputError
from normsmith.layers.domains import HasDomains

LAYERS = [
    name
    for name in ours.__all__
    if isinstance(getattr(ours, name), type) and not issubclass(getattr(ours, name), HasDomains)
]
"""Norms of domains are made of other layers, and take domains first: their own tests say what they take."""
LIKE_TORCH = [name for name in LAYERS if "Batch" in name and "LSTM" not in name and "GRU" not in name]
EAGER = [name for name in LAYERS if "Lazy" not in name]
RECURRENT = ["BatchNormLSTM", "BatchNormGRU"]


def torchs(name):
    """The layer of torch whose place a layer of ours takes."""
    return getattr(nn, name.replace("Renorm", "Norm").replace("Act", ""))


def made(name, make=lambda kind, *arguments, **options: kind(*arguments, **options), **options):
    if "Renorm" in name:
        options["total_steps"] = 10
    arguments = () if "Lazy" in name else (3, 4) if name in RECURRENT else (4,)
    return make(getattr(ours, name), *arguments, **options)


@pytest.mark.parametrize("name", LAYERS)
def test_every_argument_has_a_name_and_an_annotation(name):
    for argument in inspect.signature(getattr(ours, name)).parameters.values():
        assert argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY), argument
        assert argument.annotation is not argument.empty, argument


@pytest.mark.parametrize("name", LIKE_TORCH)
def test_torchs_arguments_come_first_with_its_defaults(name):
    theirs = dict(inspect.signature(torchs(name)).parameters)
    own = dict(inspect.signature(getattr(ours, name)).parameters)
    if not NORMS_TAKE_BIAS:
        assert own.pop("bias").default is True
    assert list(own)[: len(theirs)] == list(theirs)
    for key, argument in theirs.items():
        assert (own[key].default, own[key].kind) == (argument.default, argument.kind)


@pytest.mark.parametrize("name", EAGER)
def test_skip_init_leaves_the_values_to_the_caller(name):
    layer, other = made(name, skip_init), made(name)
    assert {key: (value.shape, value.dtype, value.device) for key, value in layer.state_dict().items()} == {
        key: (value.shape, value.dtype, value.device) for key, value in other.state_dict().items()
    }
    layer.load_state_dict(other.state_dict())
    x = (
        torch.randn(5, 2, 3)
        if name in RECURRENT
        else torch.randn(6, 4, *{"2d": (3, 3), "3d": (2, 3, 3)}.get(name[-2:], ()))
    )
    y, z = layer.eval()(x), other.eval()(x)
    torch.testing.assert_close(y, z)


@pytest.mark.parametrize("name", EAGER)
def test_the_meta_device(name):
    layer = made(name, device="meta")
    assert {tensor.device.type for tensor in layer.state_dict().values()} == {"meta"}
    layer.to_empty(device="cpu").reset_parameters()
    torch.testing.assert_close(
        {key: value for key, value in layer.state_dict().items() if "norm" in key or "running" in key},
        {key: value for key, value in made(name).state_dict().items() if "norm" in key or "running" in key},
    )


@pytest.mark.parametrize("name", LIKE_TORCH)
def test_factories_pass_what_torchs_layer_takes(name):
    options = {"eps": 1e-3, "momentum": 0.2, "affine": False, "track_running_stats": True}
    layer = made(
        name, lambda kind, *arguments, **given: functools.partial(kind, **options)(*arguments, **given)
    )
    assert {key: layer.epsilon if key == "eps" else getattr(layer, key) for key in options} == options
    positional = getattr(ours, name)(
        *(() if "Lazy" in name else (4,)), 1e-3, 0.2, False, True, "cpu", torch.float64
    )
    assert (positional.epsilon, positional.running_mean.dtype) == (1e-3, torch.float64)


@pytest.mark.parametrize("name", LIKE_TORCH)
def test_a_weight_without_a_bias_where_torch_knows_it(name):
    if NORMS_TAKE_BIAS:
        layer = made(name, bias=False)
        assert layer.bias is None
        assert layer.weight is not None
    else:
        with pytest.raises(InputError, match="bias: expected True, got False"):
            made(name, bias=False)


@pytest.mark.parametrize("name", LAYERS)
def test_an_argument_that_does_not_exist_is_torchs_error(name):
    with pytest.raises(TypeError, match="unexpected keyword argument 'no_such'"):
        made(name, no_such=1)


@pytest.mark.parametrize("name", [name for name in LIKE_TORCH if name in EAGER])
def test_a_negative_number_of_channels_is_refused_as_by_torch(name):
    with pytest.raises(RuntimeError, match="negative dimension"):
        made(name, lambda kind, _, **options: kind(-1, **options))
    assert made(name, lambda kind, _, **options: kind(0, **options)).running_mean.shape == (0,)
