"""Partners: for each norm the layer after or before it that can do its work, or the reason why none can."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.networks import BatchNormAct2d, FrozenBatchNorm2d, UsedTwice, images, lived_in
from tests.surgery.small import Net
from torch import Tensor, nn
from torch.nn import functional as F

from normsmith import layers
from normsmith.anatomy.batch_norms import is_batch_norm
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.remark import Refusal
from normsmith.surgery import trace
from normsmith.surgery.operations.fold.obstacles import Owners
from normsmith.surgery.operations.fold.partners import Partners


def partners(model: nn.Module, batch: Tensor | None = None) -> dict[str, tuple[str, str, int | None] | str]:
    """By the path of each norm the layer, side and dimensions of its fold, or the reason against it."""
    owners = Owners(Locations(lived_in(model)))
    norms = [module for module in model.modules() if is_batch_norm(module)]
    found = Partners(trace(model, batch), owners).find(norms)
    assert set(found) == set(norms)
    return {
        owners.path(norm): partner.reason
        if isinstance(partner, Refusal)
        else (owners.path(partner.producer), partner.side, partner.dimensions)
        for norm, partner in found.items()
    }


def conv(inputs: int = 3, outputs: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1)


def norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(3)


# Which one it is.


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param([conv(), norm(), nn.ReLU()], {"1": ("0", "after", None)}, id="after its layer"),
        pytest.param([nn.ReLU(), norm(), conv()], {"1": ("2", "before", None)}, id="before its layer"),
        pytest.param([conv(), norm(), conv()], {"1": ("0", "after", None)}, id="between two: the one it comes after"),
        pytest.param(
            [conv(), nn.Identity(), nn.Dropout(), norm()], {"3": ("0", "after", None)}, id="through what keeps values"
        ),
        pytest.param(
            [norm(), nn.Dropout2d(), nn.Identity(), conv()], {"0": ("3", "before", None)}, id="through, before"
        ),
        pytest.param(
            [conv(), norm(), norm()], {"1": ("0", "after", None), "2": ("0", "after", None)},
            id="through a norm that is folded itself",
        ),
        pytest.param(
            [conv(), layers.BatchNormAct2d(3), norm(), conv()],
            {"1": ("0", "after", None), "2": ("3", "before", None)}, id="not through an activation of a norm",
        ),
    ],
)  # fmt: skip
def test_the_partner_in_a_chain(parts, expected):
    assert partners(nn.Sequential(*parts)) == expected


def test_without_data_the_dimensions_of_a_one_dimensional_norm_are_to_be_watched():
    linear = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    assert partners(linear) == {"1": ("0", "after", 2)}
    assert partners(linear, torch.randn(5, 4)) == {"1": ("0", "after", None)}
    assert partners(nn.Sequential(nn.Conv1d(4, 3, 1), nn.BatchNorm1d(3))) == {"1": ("0", "after", 3)}


def test_a_norm_whose_class_says_nothing_of_dimensions():
    assert partners(nn.Sequential(conv(), nn.SyncBatchNorm(3))) == {"1": ("0", "after", 4)}
    assert partners(nn.Sequential(conv(), nn.SyncBatchNorm(3)), images(4)()) == {"1": ("0", "after", None)}


@pytest.mark.parametrize("kind", [FrozenBatchNorm2d, lambda c: BatchNormAct2d(c, nn.ReLU())])
def test_a_norm_that_is_made_of_functions_is_one(kind):
    assert partners(nn.Sequential(conv(), kind(3)), images(4)()) == {"1": ("0", "after", None)}


class Reshaped(nn.Module):
    """As LeViT: a linear layer's positions are flattened into the batch for the norm."""

    def __init__(self, *, width: int = 6) -> None:
        super().__init__()
        self.width, self.linear, self.norm = width, nn.Linear(4, 6), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        if self.width != 6:
            return self.norm(x.reshape(-1, self.width))
        return self.norm(x.flatten(0, 1)).reshape_as(x)


def test_reshapes_that_leave_the_channels_are_followed():
    assert partners(Reshaped(), torch.randn(2, 5, 4)) == {"norm": ("linear", "after", None)}


def test_reshapes_that_split_the_channels_are_followed_as_far_as_each_stays_in_one():
    assert partners(Reshaped(width=3), torch.randn(2, 5, 4)) == {"norm": ("linear", "after", None)}
    found = partners(Reshaped(width=4), torch.randn(2, 5, 4))  # of 6 features every other row has other ones
    assert "its channels are not in the dimension in which linear has its own" in found["norm"]


def test_channels_of_a_linear_layer_that_the_norm_takes_for_positions():
    found = partners(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), torch.randn(2, 3, 3))
    assert found["1"].startswith("its channels are not in the dimension in which 0 has its own")


# Why there is none.


def reason(model: nn.Module, batch: Tensor | None = None, path: str = "norm") -> str:
    found = partners(model, batch)[path]
    assert isinstance(found, str)
    return found


def test_between_activations_nothing_can_do_a_norms_work():
    assert reason(nn.Sequential(conv(), nn.ReLU(), norm(), nn.ReLU(), conv()), path="2") == (
        "it stands between 1 (ReLU) and 3 (ReLU): beside no linear layer or convolution that could do its work"
    )
    assert reason(nn.Sequential(norm()), path="0").startswith(
        "it stands between the model's input and the model's output"
    )


def test_a_fused_activation_is_between_the_norm_and_what_comes_after():
    model = nn.Sequential(nn.ReLU(), layers.BatchNormAct2d(3, activation="silu"), conv())
    assert reason(model, path="1").startswith("it stands between 0 (ReLU) and its own activation, silu")


def also_taken(net, x):
    y = net.conv(x)
    return net.norm(y) + y


def also_returned(net, x):
    y = net.conv(x)
    return net.norm(y), y


def weight_read(net, x):
    return net.norm(net.conv(x)) + net.conv.weight.sum()


def statistics_read(net, x):
    return net.norm(net.conv(x)) + net.norm.running_mean.sum()


def called_twice(net, x):
    return net.norm(net.conv(x)) + net.conv(x)


def by_function(net, x):
    return net.norm(F.conv2d(x, net.conv.weight))


def norm_twice(net, x):
    return net.norm(net.norm(net.conv(x)))


def never(net, x):
    return net.conv(x)


def two_ways(net, x):
    y = net.norm(x)
    return net.conv(y) + y


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (also_taken, "the function add takes what conv (Conv2d) puts out as well"),
        (also_returned, "what conv (Conv2d) puts out is an output of the model too"),
        (weight_read, "the weights of conv are used outside of its own forward"),
        (statistics_read, "its tensors are used outside of its own forward"),
        (called_twice, "conv is called 2 times in a forward, of which 1 send their results elsewhere"),
        (by_function, "the function conv2d is called as a function; make it a module"),
        (norm_twice, "it stands between norm (BatchNorm2d) and norm (BatchNorm2d)"),
        (never, "this forward does not come by it"),
        (two_ways, "it stands between the model's input and conv (Conv2d) and the function add"),
    ],
)
def test_what_else_has_to_do_with_the_two_is_a_reason(body, expected):
    assert reason(Net(body, conv=conv(), norm=norm()), images(4)()).startswith(expected)


def test_reading_the_shape_of_a_result_is_no_use_of_its_values():
    def body(net, x):
        y = net.conv(x)
        return net.norm(y) + x.view_as(y)

    assert partners(Net(body, conv=conv(), norm=norm()), images(4)()) == {"norm": ("conv", "after", None)}


def test_giving_values_another_shape_is_a_use_of_them():
    def body(net, x):
        y = net.conv(x)
        return net.norm(y) + y.view_as(x)

    found = reason(Net(body, conv=conv(), norm=norm()), images(4)())
    assert found.startswith("the function view_as takes what conv (Conv2d) puts out as well")


def test_a_mask_beside_the_input_is_said():
    def body(net, x):
        return net.norm(net.conv(x), torch.relu(x))

    model = Net(body, conv=conv(), norm=layers.BatchNorm2d(3))
    assert reason(model).startswith("it is called with 2 tensors (beside its input a mask")


def test_each_side_says_what_is_against_it():
    model = nn.Sequential(conv(), nn.ReLU(), norm(), nn.Conv2d(3, 3, 3, padding=1))
    assert reason(model, path="2").startswith("3 after it has a border")


def test_where_one_side_is_impossible_the_other_is_taken():
    def body(net, x):
        y = net.start(x)
        return net.end(net.norm(y)) + y

    assert partners(Net(body, start=conv(), norm=norm(), end=conv())) == {"norm": ("end", "before", None)}


class Branch(nn.Module):
    """One batch does not show which way others go."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.other = conv(), norm(), norm()
        self.rest = nn.Sequential(conv(), norm())

    def forward(self, x: Tensor) -> Tensor:
        x = (self.one if x.mean() < 100 else self.other)(self.conv(x))
        return self.rest(x)


def test_what_a_batch_did_not_call_may_be_called_for_others():
    found = partners(Branch(), images(4)())
    assert found["one"].startswith(
        "Branch did not call other for this batch, and may go another way for others"
    )
    assert found["other"] == "this forward does not come by it"
    assert found["rest.1"] == ("rest.0", "after", None)  # within a Sequential there is one way only


def test_what_a_later_part_of_a_sequential_did_not_call_is_no_other_way():
    found = partners(nn.Sequential(conv(), norm(), Branch()), images(4)())
    assert found["1"] == ("0", "after", None)


def test_partners_come_in_the_order_of_the_forward():
    model = Net(lambda net, x: net.second(net.first(net.conv(x))), second=norm(), first=norm(), conv=conv())
    assert list(partners(model)) == ["first", "second"]


# Several calls.


def test_a_block_that_is_called_twice():
    assert partners(UsedTwice()) == {"block.1": ("block.0", "after", None)}
