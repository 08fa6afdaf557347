"""Norms that hooks apply to anybody's layer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from normsmith.anatomy.hooks import After, Before, attached_norms, call_with_attached_norms, is_attached
from normsmith.errors import InputError


def attach(host: nn.Module, hook: After | Before, norm: nn.Module) -> nn.Module:
    """A host with its norm and the hook that applies it."""
    host.add_module(hook.name, norm)
    if isinstance(hook, Before):
        host.register_forward_pre_hook(hook, with_kwargs=True)
    else:
        host.register_forward_hook(hook)
    return host.eval()


def shifted(features: int) -> nn.BatchNorm1d:
    """A norm that is easy to tell: (x − 1) / 2."""
    norm = nn.BatchNorm1d(features, affine=False, eps=0.0)
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    return norm


def test_after_a_layer_its_output_is_normalised():
    host = attach(nn.Linear(3, 4), After("norm", channels_last=False), shifted(4))
    x = torch.randn(5, 3)
    torch.testing.assert_close(host(x), (host.forward(x) - 1) / 2)


@pytest.mark.parametrize("by_name", [False, True])
def test_before_a_layer_its_first_argument_is_normalised(by_name):
    host = attach(nn.Linear(3, 4), Before("norm", channels_last=False), shifted(3))
    x = torch.randn(5, 3)
    torch.testing.assert_close(host(input=x) if by_name else host(x), host.forward((x - 1) / 2))


def test_of_keywords_the_first_tensor_is_normalised_and_the_rest_goes_on():
    class Named(nn.Module):
        def forward(self, *, mode, x, y):
            return mode, x, y

    host = attach(Named(), Before("norm", channels_last=False), shifted(3))
    x, y = torch.randn(2, 5, 3)
    mode, first, second = host(mode="sum", x=x, y=y)
    torch.testing.assert_close(first, (x - 1) / 2)
    assert second is y
    assert mode == "sum"


def test_channels_last_are_moved_for_norms_that_want_them_first():
    x = torch.randn(2, 7, 3)
    host = attach(nn.Identity(), After("norm", channels_last=True), shifted(3))
    torch.testing.assert_close(host(x), (x - 1) / 2)
    host = attach(nn.Identity(), After("norm", channels_last=True), nn.LayerNorm(3))
    torch.testing.assert_close(host(x), nn.LayerNorm(3)(x))


def test_of_a_recurrent_layer_the_output_is_normalised_and_the_state_is_not():
    layer = nn.LSTM(3, 4, batch_first=True)
    x = torch.randn(2, 5, 3)
    expected, state = layer(x)
    output, (h, c) = attach(layer, After("norm", channels_last=True), shifted(4))(x)
    torch.testing.assert_close(output, (expected - 1) / 2)
    torch.testing.assert_close((h, c), state)
    packed = pack_padded_sequence(x, torch.tensor([5, 3]), batch_first=True)
    output, _ = layer(packed)
    assert isinstance(output, PackedSequence)
    torch.testing.assert_close(output.data, (layer.forward(packed)[0].data - 1) / 2)


def test_the_norm_is_looked_up_at_each_call():
    host = attach(nn.Identity(), After("norm", channels_last=False), shifted(3))
    x = torch.randn(5, 3)
    host.norm = nn.Identity()
    assert torch.equal(host(x), x)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda host: pickle.loads(pickle.dumps(host))])
def test_copies_and_pickles_call_norms_of_their_own(copied):
    host = attach(nn.Identity(), After("norm", channels_last=False), shifted(3))
    twin = copied(host)
    twin.norm.running_mean.fill_(5.0)
    x = torch.randn(5, 3)
    torch.testing.assert_close(twin(x), (x - 5) / 2)
    torch.testing.assert_close(host(x), (x - 1) / 2)


def test_attached_norms_are_recognised_among_other_hooks_and_children():
    host = attach(nn.Linear(3, 3), After("after", channels_last=False), shifted(3))
    host.register_forward_hook(lambda *_: None)
    attach(host, Before("before", channels_last=True), shifted(3))
    host.other = nn.ReLU()
    assert {hook.name: type(hook) for hook in attached_norms(host).values()} == {
        "before": Before,
        "after": After,
    }
    assert is_attached(host, "after")
    assert not is_attached(host, "other")
    assert attached_norms(nn.Linear(3, 3)) == {}
    key = next(key for key, hook in attached_norms(host).items() if hook.name == "after")
    del host._forward_hooks[key]
    assert not is_attached(host, "after")


def test_where_no_hooks_run_the_norms_are_called_as_hooks_would():
    host = attach(nn.Linear(3, 4), After("after", channels_last=False), shifted(4))
    attach(host, Before("before", channels_last=False), shifted(3))
    x = torch.randn(5, 3)
    torch.testing.assert_close(call_with_attached_norms(host, host.forward, (x,), {}), host(x))
    torch.testing.assert_close(call_with_attached_norms(host, host.forward, (), {"input": x}), host(x))


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_norm_of_images_takes_vectors_too(channels_last):
    norm = nn.BatchNorm2d(3, affine=False)
    host = attach(
        nn.Identity(), After("norm", channels_last, unsqueeze=1 if channels_last else 2), norm
    ).train()
    x = torch.randn(5, 7, 3) if channels_last else torch.randn(5, 3)
    expected = (x - x.reshape(-1, 3).mean(0)) / (x.reshape(-1, 3).var(0, correction=0) + norm.eps).sqrt()
    torch.testing.assert_close(host(x), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torch_script_cannot_compile_it_and_says_what_to_do():
    layer = nn.Linear(2, 2)
    layer.norm = nn.LayerNorm(2)
    hook = After("norm", channels_last=True)
    layer.register_forward_hook(hook)
    with pytest.raises(InputError, match=r"norm is attached to a layer by a hook.*fold .*torch.jit.trace"):
        torch.jit.script(nn.Sequential(layer).eval())
    assert not hasattr(hook, "__name__")
    with pytest.raises(AttributeError, match="'After' object has no attribute 'other'"):
        hook.other  # noqa: B018
    x = torch.randn(3, 2)
    torch.testing.assert_close(torch.jit.trace(layer, x)(x), layer(x))
