"""What people expect around a package: hooks before commits, CI, a citation, a security page, scripts, an sdist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def hooks() -> list[dict[str, Any]]:
    return [hook for repo in read_yaml(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]


# Hooks.


def test_hooks_use_the_versions_that_constraints_pin() -> None:
    """They run the tools of .venv, which is built from constraints.txt: a second list of versions would drift."""
    repos = read_yaml(".pre-commit-config.yaml")["repos"]
    assert {repo["repo"] for repo in repos} == {"local"}
    assert all(hook["language"] == "system" for hook in hooks())
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks())
    assert not any("additional_dependencies" in hook for hook in hooks())


@pytest.mark.parametrize("hook", hooks(), ids=lambda hook: hook["id"])
def test_hooks_do_what_lint_does(hook: dict[str, Any]) -> None:
    tool, *words = shlex.split(hook["entry"].removeprefix(".venv/bin/"))
    verb = [word for word in words if not word.startswith("-")]
    assert re.search(rf"^\t@\$\(BIN\)/{' '.join([tool, *verb])}\b", MAKEFILE, re.MULTILINE)


def test_hooks_cover_ruff_and_the_import_contract() -> None:
    assert [hook["id"] for hook in hooks()] == ["ruff-check", "ruff-format", "import-contract"]


# Continuous integration.


def test_ci_is_one_job_that_calls_the_script() -> None:
    (job,) = read_yaml(".github/workflows/ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (python,) = [step["with"]["python-version"] for step in job["steps"] if "python" in step.get("uses", "")]
    assert PROJECT["project"]["requires-python"] == f">={python}"


# Citation and security.


def test_citation_says_what_pyproject_says() -> None:
    citation, project = read_yaml("CITATION.cff"), PROJECT["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys(), "the format requires these"
    assert citation["title"] == project["name"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["keywords"] == project["keywords"]
    assert citation["authors"] == project["authors"]


def test_security_page_says_how_to_report_and_what_is_executed() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "/security/advisories/new" in text
    assert "file.py:task" in text
    assert "weights_only=True" in text


# Scripts.


def test_there_are_scripts() -> None:
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_runs_says_what_it_does_and_is_in_contributing(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert re.match(r'#!/usr/bin/env (bash\n# |python3\n""")\w.+\n', text)
    assert os.access(script, os.X_OK)
    assert f"scripts/{script.name}" in CONTRIBUTING
    if not script.suffix:
        subprocess.run(["bash", "-n", str(script)], check=True, timeout=20)


# Source distribution.


def test_sdist_takes_everything_that_is_tracked() -> None:
    """Hatch adds pyproject.toml and .gitignore by itself."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    tracked = {name.partition("/")[0] for name in listed.stdout.split("\0") if name}
    included = set(PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    assert tracked - {"pyproject.toml", ".gitignore"} <= included
