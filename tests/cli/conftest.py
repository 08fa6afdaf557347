"""Run the command in this process, in an empty folder, and see its exit code and both its streams."""

import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from normsmith.cli import main

TINY = Path(__file__).parents[1] / "studies" / "tiny.py"


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def normsmith(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["normsmith", *arguments])
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        else:
            code = 0
        return Ran(code, *capfd.readouterr())

    return run


@pytest.fixture
def tiny():
    return lambda attribute="task": f"{TINY}:{attribute}"
