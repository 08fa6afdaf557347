"""Running statistics stay float32 at least, and keep the digits that they have."""

import pytest
import torch
from torch import nn

import normsmith.layers as ours
from normsmith.layers.precision import Float32Statistics


class Holder(Float32Statistics):
    """A module with two statistics and a buffer of another kind."""

    statistics = ("mean", "matrix")

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([1.0001]))
        self.register_buffer("matrix", None)
        self.register_buffer("other", torch.tensor([1.0001]))


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, lambda m: m.to(torch.float16)])
def test_casts_to_half_precision_leave_the_statistics_alone(cast):
    holder = cast(Holder())
    assert holder.mean.dtype == torch.float32
    assert holder.mean.item() == pytest.approx(1.0001, rel=1e-6)
    assert holder.other.dtype != torch.float32


def test_casts_to_double_reach_the_statistics():
    assert Holder().double().mean.dtype == torch.float64


def test_a_checkpoint_in_half_precision_is_widened():
    holder = Holder()
    state = {name: value.half() for name, value in Holder().state_dict().items()}
    holder.load_state_dict(state, assign=True)
    assert (holder.mean.dtype, holder.other.dtype) == (torch.float32, torch.float16)


@pytest.mark.parametrize(
    "cast", [nn.Module.half, lambda layer: layer.load_state_dict(layer.half().state_dict())]
)
def test_whitening_matrices_are_statistics(cast):
    layer = ours.Whiten1d(4, groups=2)
    cast(layer)
    assert layer.running_whitening.dtype == torch.float32
    assert layer.running_mean.dtype == torch.float32
