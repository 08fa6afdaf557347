"""What kind of layer a module or function is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normsmith import layers
from normsmith.anatomy.kinds import (
    ACTIVATION_FUNCTIONS,
    NORM_FUNCTIONS,
    PASSING_FUNCTIONS,
    PRODUCERS,
    PRODUCING_FUNCTIONS,
    Signal,
    channels,
    has_own_forward,
    is_activation,
    is_norm,
    is_opaque,
    is_prepared,
    is_producer,
    is_sequential,
    plain_name,
)


class Plain(nn.Linear):
    """A subclass that computes what its parent does."""


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Swish(nn.SiLU):
    def forward(self, x):
        return x * torch.sigmoid(2 * x)


class Normed(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) * 2


class Composite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


@pytest.mark.parametrize("kind", PRODUCERS, ids=lambda kind: kind.__name__)
def test_producers_and_their_channels(kind):
    layer = kind(3, 5) if kind is nn.Linear else kind(3, 5, 1)
    assert is_producer(layer)
    assert channels(layer) == 5
    assert not is_norm(layer)
    assert not is_activation(layer)


def test_subclasses_are_known_while_they_compute_what_their_parent_does():
    assert is_producer(Plain(2, 2))
    assert not is_producer(Doubled(2, 2))
    assert is_activation(nn.SiLU())
    assert not is_activation(Swish())
    assert is_norm(Normed(2))  # a norm still, with a forward of its own
    assert has_own_forward(Normed(2))


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(2), nn.SyncBatchNorm(2), layers.BatchNorm1d(2), layers.Whiten1d(2)], ids=str
)
def test_the_forwards_of_torch_and_normsmith_are_not_somebodys_own(norm):
    assert is_norm(norm)
    assert not has_own_forward(norm)


@pytest.mark.parametrize("norm", [nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.RMSNorm(2), nn.InstanceNorm1d(2)])
def test_norms_of_torch(norm):
    assert is_norm(norm)


@pytest.mark.parametrize(
    ("module", "opaque"),
    [
        (nn.Linear(2, 2), True),
        (nn.LSTM(2, 2), True),
        (nn.MultiheadAttention(2, 1), True),
        (layers.BatchNormLSTM(2, 2), True),
        (nn.Sequential(nn.ReLU()), False),
        (nn.Sequential(), True),
        (nn.TransformerEncoderLayer(2, 1), False),
        (Composite(), False),
        (Doubled(2, 2), False),
        (Normed(2), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_modules_are_single_events(module, opaque):
    assert is_opaque(module) == opaque


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripted_and_quantised_modules_are_single_events():
    assert is_opaque(torch.jit.script(nn.Sequential(nn.ReLU())))
    assert is_opaque(torch.ao.nn.qat.Linear(2, 2, qconfig=torch.ao.quantization.default_qat_qconfig))


def test_modules_prepared_for_quantisation():
    observed, configured = nn.Linear(2, 2), nn.Linear(2, 2)
    observed.activation_post_process = nn.Identity()
    configured.qconfig = "some"
    assert is_prepared(observed)
    assert is_prepared(configured)
    configured.qconfig = None
    assert not is_prepared(configured)


def test_sequentials_with_a_forward_of_their_own_are_none():
    class Reversed(nn.Sequential):
        def forward(self, x):
            for layer in reversed(self):
                x = layer(x)
            return x

    class Named(nn.Sequential):
        pass

    assert is_sequential(Named())
    assert not is_sequential(Reversed())
    assert not is_sequential(nn.ModuleList())


@pytest.mark.parametrize(
    ("name", "plain"),
    [("relu_", "relu"), ("__add__", "add"), ("__iadd__", "add"), ("__radd__", "add"), ("imul", "mul"),
     ("__rsub__", "sub"), ("_adaptive_avg_pool2d", "adaptive_avg_pool2d"), ("conv2d", "conv2d"),
     ("__getitem__", "getitem")],
)  # fmt: skip
def test_variants_of_a_function_have_one_name(name, plain):
    assert plain_name(name) == plain


def test_no_function_is_of_two_kinds():
    kinds = [ACTIVATION_FUNCTIONS, NORM_FUNCTIONS, PASSING_FUNCTIONS, PRODUCING_FUNCTIONS]
    assert sum(map(len, kinds)) == len(set().union(*kinds))
    assert all(plain_name(name) == name for kind in kinds for name in kind)


def test_signals_are_channels_first_unless_said():
    assert Signal(8) == Signal(8, spatial=0, channels_last=False)
