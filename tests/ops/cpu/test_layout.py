"""Layouts of batches in memory: which the kernels know, which are copied first, and how the work is cut."""

from __future__ import annotations

import pytest
import torch

from normsmith.ops.cpu.kernels.arguments import LANES, RUN
from normsmith.ops.cpu.layout import PLANES_FROM, Layout, layout_of

KNOWN = [
    pytest.param((60, 100), torch.contiguous_format, "columns", id="rows"),
    pytest.param((4, 3, PLANES_FROM), torch.contiguous_format, "planes", id="planes"),
    pytest.param((4, 3, PLANES_FROM - 1), torch.contiguous_format, "columns", id="a plane too small"),
    pytest.param((4, 3, 20, 20), torch.channels_last, "columns", id="channels last"),
    pytest.param((4, 3, 2, 10, 20), torch.channels_last_3d, "columns", id="channels last, volumes"),
    pytest.param((5, 7, 1, 1), torch.contiguous_format, "columns", id="one position"),
    pytest.param((2, 3 * RUN), torch.contiguous_format, "columns", id="more channels than a run has"),
]


@pytest.mark.parametrize(("shape", "memory", "name"), KNOWN)
def test_layouts_cover_the_batch(shape, memory, name):
    x = torch.empty(shape, device="meta").to(memory_format=memory)
    layout = layout_of(x)
    assert layout.name == name
    assert (layout.samples, layout.channels) == shape[:2]
    assert layout.rows * layout.positions == x[0, 0].numel()
    if name == "columns":
        # strips cover the columns of a line, and only the last one is cut
        columns = layout.channels * layout.positions * layout.fold
        assert layout.strip * (layout.strips - 1) < columns <= layout.strip * layout.strips
        assert layout.strip <= max(RUN, layout.positions)
        assert layout.strip % layout.positions == 0


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(torch.empty(8, 6).t(), id="transposed"),
        pytest.param(torch.empty(8, 6)[::2], id="every second row"),
        pytest.param(torch.empty(8, 6)[:, :3], id="some of the channels"),
        pytest.param(torch.empty(4, 3, 5, 6).transpose(2, 3), id="positions swapped"),
        pytest.param(torch.empty(1, 3, 5).expand(4, 3, 5), id="one sample, repeated"),
    ],
)
def test_other_strides_are_copied(x):
    assert layout_of(x) is None
    assert layout_of(x.contiguous()) is not None


def test_strides_of_dimensions_of_one_do_not_matter():
    x = torch.empty(8, 6)[:1]
    assert x.as_strided((1, 6), (99, 1)).stride() == (99, 1)
    assert layout_of(x.as_strided((1, 6), (99, 1))) == layout_of(x)


def test_short_rows_are_taken_several_at_a_time_so_that_vectors_fit():
    layout = layout_of(torch.empty(1000, 24))
    assert layout.fold > 1
    assert layout.strip == 24 * layout.fold <= RUN
    assert layout.strip % LANES == 0
    assert layout_of(torch.empty(10, RUN + 1)).fold == 1


def test_pieces_are_what_threads_can_have_whole():
    assert Layout("planes", 2, 9, 1, 400).pieces == 2
    assert Layout("columns", 2, 9, 1, 49, 49 * 3, 3).pieces == 3
    assert Layout("columns", 60, 100, 1, 1, 1000, 1, 10).pieces == 0  # rows are shared out
