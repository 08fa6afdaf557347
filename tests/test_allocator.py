"""The allocator's benchmark: settings that do not mix, and a page whose figures are those that were kept."""

from __future__ import annotations

import json

from benchmarks import allocator
from benchmarks.networks import NETWORKS

KEPT = {
    "machine": "A, AVX2",
    "settings": {
        "default": {"step: x": {"ours": 10.0, "torch": 30.0}},
        "kept pages": {"step: x": {"ours": 5.0, "torch": 14.0}},
    },
}


def test_both_sides_stand_under_each_setting() -> None:
    lines = allocator.table(KEPT).splitlines()
    assert lines[0] == "| one training step, ms: torch / ours (quotient) | default | kept pages |"
    assert lines[2] == "| step: x | 30 / 10 (3.00) | 14 / 5 (2.80) |"
    assert lines[-1] == "A, AVX2"


def test_figures_are_written_between_the_marks_alone() -> None:
    page = f"before\n{allocator.BEGIN}\nold\n{allocator.END}\nafter"
    once = allocator.with_figures(page, "new")
    assert once == f"before\n{allocator.BEGIN}\n\nnew\n\n{allocator.END}\nafter"
    assert allocator.with_figures(once, "new") == once


def test_the_page_shows_what_is_kept() -> None:
    page = allocator.PAGE.read_text(encoding="utf-8")
    assert page.count(allocator.BEGIN) == page.count(allocator.END) == 1
    shown = page.partition(allocator.BEGIN)[2].partition(allocator.END)[0].strip()
    if allocator.KEPT.exists():
        assert shown == allocator.table(json.loads(allocator.KEPT.read_text(encoding="utf-8")))
    else:
        assert shown == "Not measured yet on a quiet machine."


def test_every_network_has_its_row_and_every_setting_its_environment() -> None:
    assert {f"network: {name}" for name in NETWORKS} <= set(allocator.rows())
    environments = allocator.settings()
    assert environments["default"] == {}
    assert environments["kept pages"].keys() <= allocator._all_variables()
    assert len({tuple(each) for each in environments.values()}) == len(environments)


def test_one_process_measures_both_sides() -> None:
    found = allocator.measured("tabular", quick=True)
    assert set(found["network: tabular MLP, batch 512"]) == {"ours", "torch"}
