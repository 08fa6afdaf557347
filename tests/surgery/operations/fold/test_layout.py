"""Where channels lie after moves: how many of a layer's in a row are one of a norm's, or none where they mix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from normsmith.anatomy.events import EventLog
from normsmith.anatomy.graph import Event
from normsmith.surgery.operations.fold.layout import keeps_the_batch_apart, repeats_between


def events(shape: tuple[int, ...], *moves) -> list[Event]:
    """The calls that make these moves one after the other."""
    log, x = EventLog(), torch.zeros(shape)
    event = log.add("input", "", "x", shape=shape)
    made: list[Event] = []
    for move in moves:
        x = move(x)
        event = log.add("function", "", "move", [event], shape=tuple(x.shape), move=move)
        made.append(event)
    return made


def transposed(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


@pytest.mark.parametrize(
    ("shape", "moves", "dimensions", "channels", "features", "side", "expected"),
    [
        pytest.param((2, 4, 3, 5), [lambda x: x.flatten(1)], (1, 1), 60, 4, "before", 15, id="flattened maps"),
        pytest.param(
            (2, 4, 3, 5), [lambda x: x.permute(0, 2, 3, 1), lambda x: x.flatten(1)], (1, 1), 60, 4, "before", 1,
            id="channels last",
        ),
        pytest.param((2, 60), [lambda x: x.view(-1, 4, 3, 5)], (1, 1), 60, 4, "after", 15, id="to maps"),
        pytest.param((2, 5, 4), [transposed], (2, 1), 4, 4, "after", 1, id="time, transposed"),
        pytest.param((2, 4, 4), [transposed], (2, 1), 4, 4, "after", 1, id="time, as long as wide"),
        pytest.param((2, 4, 4), [], (2, 1), 4, 4, "after", None, id="time as channels"),
        pytest.param((2, 5, 4), [lambda x: x[:, 2], ], (2, 1), 4, 4, "after", 1, id="one step"),
        pytest.param((2, 12), [lambda x: x[:, 4:8]], (1, 1), 12, 4, "after", 1, id="a part, counted from a multiple"),
        pytest.param((2, 12), [lambda x: x[:, 3:7]], (1, 1), 12, 4, "after", None, id="a part between"),
        pytest.param((2, 12), [lambda x: x.flip(1)], (1, 1), 12, 12, "after", None, id="reversed"),
        pytest.param((2, 12), [lambda x: x.reshape(-1, 4)], (1, 1), 12, 4, "after", 1, id="rows, one after the other"),
        pytest.param((2, 12), [lambda x: x.reshape(-1, 8)], (1, 1), 12, 8, "after", None, id="no multiple"),
        pytest.param((2, 12), [lambda x: x.t()], (1, 1), 12, 2, "after", None, id="the batch as channels"),
        pytest.param((2, 12), [lambda x: x.reshape(3, 4, 2)], (1, 1), 12, 4, "after", None, id="mixed with the batch"),
        pytest.param((2, 4, 3), [lambda x: x.flatten(1)], (1, 1), 4, 12, "after", None, id="finer than the layer"),
        pytest.param((2, 4), [lambda x: x.reshape(-1, 1)], (1, 1), 4, 1, "after", 1, id="one channel has all"),
    ],
)  # fmt: skip
def test_channels_in_a_row(shape, moves, dimensions, channels, features, side, expected):
    assert repeats_between(events(shape, *moves), shape, dimensions, channels, features, side) == expected


def test_of_one_sample_the_first_dimension_has_to_stay():
    (flat,) = events((1, 4, 3), lambda x: x.flatten(1))
    assert keeps_the_batch_apart(flat, channels_last=False)
    (rows,) = events((1, 5, 4), lambda x: x.flatten(0, 1))
    assert keeps_the_batch_apart(rows, channels_last=True)
    assert not keeps_the_batch_apart(rows, channels_last=False)
    (mixed,) = events((1, 12), lambda x: x.view(4, 3))
    assert not keeps_the_batch_apart(mixed, channels_last=True)
