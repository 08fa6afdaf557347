"""Tables of plans fit a page: side by side where that is possible, else with reasons on lines of their own."""

import pytest

from normsmith.surgery.plans.table import table

DEEP = "features.denseblock{}.denselayer{}.layers.norm1"
CONV = "Conv2d(64, 128, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)"
LONG = [
    (DEEP.format(1, 2), "nn.BatchNorm2d(64) → nn.GroupNorm(64, num_groups=32)", "asked for"),
    (DEEP.format(3, 4), "nn.BatchNorm2d(64) → nn.GroupNorm(64, num_groups=32)", "asked for"),
    (
        "conv",
        f"{CONV} → nn.GroupNorm(64, num_groups=1), {CONV}; the norm is conv.input_norm",
        "after ReLU act",
    ),
    (", ".join(DEEP.format(1, number) for number in range(5)), "kept", "a reason that is long " * 8),
]


def test_short_rows_stand_side_by_side():
    assert table([("1", "a → b", "asked for"), ("2.bias", "bias → no bias", "")]) == [
        "  1       a → b           asked for",
        "  2.bias  bias → no bias",
    ]
    assert table([]) == []


@pytest.mark.parametrize("width", [100, 80, 60])
def test_long_rows_fit(width):
    lines = table(LONG, width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for path in (DEEP.format(1, 2), DEEP.format(3, 4), "conv.input_norm"):
        assert path in words
    assert words.count("reason") == 8


def test_a_reason_stands_once_below_the_rows_that_it_is_of():
    rows = [
        ("a", "ReLU() → Tanh()", "asked for"),
        ("b.c", "ReLU() → Tanh()", "asked for"),
        ("d", "kept", "x" * 90),
    ]
    assert table(rows) == [
        "  a    ReLU() → Tanh()",
        "  b.c  ReLU() → Tanh()",
        "      asked for",
        "  d    kept",
        f"      {'x' * 90}",
    ]


def test_many_arguments_are_cut_and_few_are_not():
    lines = "\n".join(table(LONG, 100))
    assert "Conv2d(64, 128, …)" in lines
    assert "nn.GroupNorm(64, num_groups=1)" in lines
