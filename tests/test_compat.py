"""The page on versions says what ran; the script that runs the tests with other versions counts and resumes rightly."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compat", ROOT / "scripts/compat.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compat = _script()


def _run(torch: str, python: str, **others: Any) -> dict[str, Any]:
    run = {
        "numpy": "2.4.6",
        "numba": "0.68.1",
        "machine": "Linux x86_64",
        "date": "2026-11-26",
        "commit": "abc",
        "parts": "all",
    }
    return {"python": python, "torch": torch, **run, "passed": 3, "failed": 0, "skipped": 1, **others}


def test_the_page_has_the_table_of_what_ran() -> None:
    page = compat.PAGE.read_text(encoding="utf-8")
    assert compat.with_table(page, compat.RECORD) == page


def test_the_oldest_torch_that_is_accepted_was_not_passed_over_in_the_page() -> None:
    oldest = (
        next(
            line
            for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
            if '"torch>=' in line
        )
        .partition("torch>=")[2]
        .partition('"')[0]
    )
    assert f"torch {oldest} and newer" in compat.PAGE.read_text(encoding="utf-8")


def test_another_run_changes_the_table(tmp_path: Path) -> None:
    page = compat.PAGE.read_text(encoding="utf-8")
    record = tmp_path / "versions.json"
    record.write_text(json.dumps([_run("2.99.0", "3.99.1")]), encoding="utf-8")
    changed = compat.with_table(page, record)
    row = "| 2.99.0 | 3.99.1 | 2.4.6 | 0.68.1 | Linux x86_64 | 2026-11-26 | abc | all | 3 | 0 | 1 |"
    assert row in changed
    assert row not in page
    record.write_text(compat.RECORD.read_text(encoding="utf-8"), encoding="utf-8")
    assert compat.with_table(changed, record) == page


def test_parts_that_there_are_not_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"expected parts among .*tests/layers.*, got tests/none"):
        compat.test(tmp_path, "1", ["tests/layers", "tests/none"])


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(SystemExit, match="expected the marks"):
        compat.with_table("nothing", compat.RECORD)


def test_a_new_run_takes_the_place_of_that_of_the_same_versions() -> None:
    runs = [_run("2.13.0+cu130", "3.12.1"), _run("2.15.0", "3.11.7")]
    again = compat.merged(runs, _run("2.13.0+cpu", "3.12.2", failed=1))
    assert [(run["torch"], run["python"], run["failed"]) for run in again] == [
        ("2.13.0+cpu", "3.12.2", 1),
        ("2.15.0", "3.11.7", 0),
    ]
    older = compat.merged(again, _run("2.6.0", "3.11.7"))
    assert [run["torch"] for run in older] == ["2.6.0", "2.13.0+cpu", "2.15.0"]


def test_pins_of_what_torch_pins_are_left_out() -> None:
    required = [
        "filelock",
        "sympy==1.13.1; python_version >= '3.9'",
        "triton (==3.2.0)",
        "typing_extensions>=4",
    ]
    assert compat.pinned(required) == ["sympy", "triton"]
    pins = ["# head", "sympy==1.14.0", "Typing.Extensions==4", "numpy==2.4.6"]
    assert compat.without(pins, ["SymPy", "typing_extensions"]) == ["# head", "numpy==2.4.6"]


def test_outcomes_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "one.xml"
    case = '<testcase classname="a" name="{}">{}</testcase>'
    bodies = {"p": "", "q": "<system-out/>", "f": "<failure/>", "e": "<error/>", "s": "<skipped/>"}
    cases = "".join(case.format(name, body) for name, body in bodies.items())
    file.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>", encoding="utf-8")
    assert compat.sentence(compat.count([file])) == "2 passed, 2 failed, 1 skipped"
    assert compat.failures([file]) == ["a::f", "a::e"]


def test_every_test_but_those_of_the_pages_is_in_a_part() -> None:
    covered = {
        file
        for part in compat.parts()
        for path in ROOT.glob(part)
        for file in [path, *path.rglob("test_*.py")]
    }
    tests = {
        file for file in (ROOT / "tests").rglob("test_*.py") if "docs" not in file.relative_to(ROOT).parts
    }
    assert tests <= covered


def test_parts_that_ran_on_this_tree_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def run_part(environment: Path, part: str, workers: str, file: Path) -> None:
        if part == "second" and not ran.count("second"):
            ran.append(part)
            raise SystemExit("stopped")
        ran.append(part)
        file.write_text('<testsuites><testcase name="x"/></testsuites>', encoding="utf-8")

    monkeypatch.setattr(compat, "parts", lambda: ["first", "second"])
    monkeypatch.setattr(compat, "run_part", run_part)
    monkeypatch.setattr(compat, "versions", lambda environment: {"torch": "2.99.0", "python": "3.99.0"})
    monkeypatch.setattr(compat, "output", lambda *command: "")
    with pytest.raises(SystemExit, match="stopped"):
        compat.test(tmp_path, "1", [])
    run = compat.test(tmp_path, "1", [])
    assert ran == ["first", "second", "second"]
    assert (run["passed"], run["failed"], run["skipped"]) == (2, 0, 0)


def test_make_asks_which_torch() -> None:
    # a `make compat TORCH=...` that runs this test would hand its own variables on
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("TORCH", "MAKEFLAGS", "MAKELEVEL")
    }
    made = subprocess.run(
        ["make", "compat"], cwd=ROOT, env=inherited, capture_output=True, text=True, check=False, timeout=20
    )
    assert made.returncode == 2
    assert "which torch?" in made.stdout
