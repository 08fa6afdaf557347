"""Calls that only move numbers: the same move of another tensor, and what is taken for none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.surgery.small import Net
from torch import Tensor, nn
from torch.nn import functional as F

from normsmith.anatomy import trace
from normsmith.anatomy.graph import Event
from normsmith.anatomy.moves import move_of_module, moves_by_name


def last_event(function: Callable[[Tensor], Tensor], x: Tensor, **parts: nn.Module) -> Event:
    return trace(Net(lambda _, x: function(x), **parts), x).events[-1]


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda x: x.flatten(1),
    "torch.flatten": lambda x: torch.flatten(x, 1, 2),
    "view": lambda x: x.view(x.shape[0], -1),
    "reshape": lambda x: x.reshape(-1, 4),
    "reshape_as": lambda x: x.reshape_as(x.flatten(1)),
    "unflatten": lambda x: x.unflatten(1, (4, 2)),
    "transpose": lambda x: x.transpose(1, 2),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "mT": lambda x: x.mT,
    "movedim": lambda x: x.movedim(1, -1),
    "squeeze": lambda x: x[:, :, :1].squeeze(2),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "slice": lambda x: x[..., 1:, None],
    "select": lambda x: x.select(2, 0),
    "narrow": lambda x: torch.narrow(x, 1, 2, 4),
    "flip": lambda x: x.flip(1),
    "expand": lambda x: x[:, :1].expand(-1, 5, -1, -1),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "dropout in evaluation": lambda x: F.dropout(x, 0.5, training=False),
}


CASES = [(name, torch.contiguous_format) for name in MOVES]
CASES += [(name, torch.channels_last) for name in MOVES if name != "view"]  # such a view does not exist


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_the_same_move_of_another_tensor(name, layout):
    x = torch.randn(2, 8, 3, 4)
    event = last_event(MOVES[name], x.contiguous(memory_format=layout))
    other = torch.arange(x.numel()).reshape(x.shape)
    if name in ("squeeze", "expand"):  # the second of two moves
        other = other[:, :, :1] if name == "squeeze" else other[:, :1]
        assert torch.equal(
            event.move(other), other.squeeze(2) if name == "squeeze" else other.expand(-1, 5, -1, -1)
        )
    else:
        assert torch.equal(event.move(other), MOVES[name](other))


CONSTANT = torch.ones(8, 24)  # of no call in the forward


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: x.view(torch.int32), "the bits are read as other numbers"),
        (lambda x: x[x[0, :, 0, 0].argsort()[:2] % 2], "where to is told by the data"),
        (lambda x: x.relu(), "the numbers change"),
        (lambda x: F.dropout(x, 0.5, training=True), "half of the numbers are gone"),
        (lambda x: x.clone().squeeze_(), "the tensor that it takes is another afterwards"),
        (lambda x: x.to(torch.float64), "the numbers are rounded in other ways"),
        (lambda x: CONSTANT.view_as(x.flatten(1)), "the numbers are others, only the shape is taken"),
    ],
)  # fmt: skip
def test_what_is_no_move(function, why):
    assert last_event(function, torch.randn(2, 8, 3, 4)).move is None, why


def test_modules_that_move():
    x = torch.arange(2 * 8 * 2 * 2).reshape(2, 8, 2, 2)
    for module in (
        nn.Flatten(),
        nn.Flatten(2),
        nn.Unflatten(1, (4, 2)),
        nn.PixelShuffle(2),
        nn.PixelUnshuffle(2),
    ):
        assert torch.equal(move_of_module(module, module(x))(x), module(x))
        assert moves_by_name("", module)
    assert move_of_module(nn.ReLU(), x) is None


def test_a_subclass_of_a_module_that_moves_is_none():
    class Doubled(nn.Flatten):
        def forward(self, x):
            return 2 * super().forward(x)

    assert move_of_module(Doubled(), torch.ones(2)) is None
    assert not moves_by_name("Doubled", Doubled())
