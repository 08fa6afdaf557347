"""How the corpus is counted, and that the page has what was counted."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from tests.corpus.cases import every_case

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("corpus_script", ROOT / "scripts/corpus.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def rows():
    def row(file, hits=(), misses=(), alarms=()):
        return {
            "file": file,
            "case": file,
            "normsmith check": {"hits": hits, "misses": misses, "alarms": alarms},
        }

    return [row("a/b", ["NS201"], ["NS404"]), row("healthy/x", alarms=["NS404"]), row("healthy/y")]


KEPT = {
    "rules": ["NS201", "NS404"],
    "tools": {"normsmith check": ["NS201", "NS404"]},
    "seconds": 1234,
    "machine": "2 cores",
    "commit": "abc",
    "cases": rows(),
}


def test_intervals_are_exact(script):
    assert script.share(19, 20) == "95.0 % (75.1 to 99.9)"
    assert script.share(10, 10) == "100.0 % (69.2 to 100.0)"
    assert script.share(0, 0) == "–"


def test_counts_are_by_rule(script):
    assert script.counted(KEPT["cases"], "normsmith check") == (1, 1, 1)
    assert script.counted(KEPT["cases"], "normsmith check", "NS2") == (1, 0, 0)


def test_the_report_says_all(script):
    said = script.report(KEPT)
    assert "| `normsmith check` | 2 | 2 | 1 | 1 | 50.0 % (1.3 to 98.7) | 50.0 % (1.3 to 98.7) |" in said
    assert "| configuration | 1 | 1 | 1 | 0 | 100.0 % (2.5 to 100.0) | 100.0 % (2.5 to 100.0) |" in said
    assert "of 2: `normsmith check` 1." in said
    assert "Missed: a/b (NS404)." in said
    assert "False alarms: healthy/x (NS404)." in said


def test_a_tool_is_counted_on_its_own_rules_alone(script, tmp_path):
    case = every_case()["remainder-of-one"]
    says_other = (lambda *_: [("NS201", "warning")], frozenset({"NS302"}))
    says_it = (lambda *_: [("NS302", "warning"), ("NS201", "warning")], frozenset({"NS302", "NS201"}))
    has_none = (lambda *_: [], frozenset({"NS201"}))

    def raises(*_):
        raise ValueError("on purpose")

    row = script.judged(
        case,
        tmp_path,
        {"other": says_other, "it": says_it, "none": has_none, "raises": (raises, frozenset({"NS302"}))},
    )
    assert (row["other"]["misses"], row["other"]["alarms"]) == (["NS302"], [])
    assert (row["it"]["hits"], row["it"]["alarms"]) == (["NS302"], ["NS201"])
    assert row["none"]["misses"] == []
    assert row["raises"]["misses"] == ["NS302"]
    assert row["raises"]["failed"] == "ValueError: on purpose"


def test_normsmith_is_asked_with_what_the_case_hands_over(script, tmp_path):
    case = every_case()["remainder-of-one"]
    assert ("NS302", "error") in script.ask_normsmith(case, case.build(tmp_path))


def test_the_page_has_what_was_kept(script):
    page = script.PAGE.read_text(encoding="utf-8")
    if script.KEPT.exists():
        kept = json.loads(script.KEPT.read_text(encoding="utf-8"))
        assert script.with_table(page, kept) == page, "write it anew: make corpus"
    else:
        assert f"{script.BEGIN}\nNot measured yet.\n\n{script.END}" in page
    assert script.report(KEPT) in script.with_table(page, KEPT)
    with pytest.raises(SystemExit):
        script.with_table("no marks", KEPT)


def test_files_of_cases_that_do_not_exist_are_refused(script):
    with pytest.raises(SystemExit, match="no file of cases is called nowhere/at-all"):
        script.measured(["nowhere/at-all"], 1)
