"""The README is short, shows code at once, and its commands run as they are written, on the page's own task."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import Ran
from tests.docs.pages import ROOT, blocks
from torch.optim.swa_utils import AveragedModel

from normsmith.studies import Verdict
from normsmith.tasks import load

README = ROOT / "README.md"
INDEX = ROOT / "docs/index.md"
TASK_FILE = "my_task.py"
QUICK = "--seeds 1 --steps 10 --jobs 1 --format json --report r.html --store sqlite:///s.db"


def test_short_with_code_or_a_picture_at_once() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 190
    assert any(line.startswith(("```", "![")) for line in lines[:20])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the README's task, of at most fifteen lines, and a checkpoint as weight averaging leaves it."""
    (task,) = [block.code for block in blocks(README, "python") if "Task(" in block.code]
    assert len(task.splitlines()) <= 15
    (tmp_path / TASK_FILE).write_text(task, encoding="utf-8")
    (checkpoint,) = re.findall(
        r'`torch.save\(averaged_model.state_dict\(\), "(.+?)"\)`', README.read_text("utf-8")
    )
    averaged = AveragedModel(load(str(tmp_path / f"{TASK_FILE}:task")).model())
    torch.save(averaged.state_dict(), tmp_path / checkpoint)
    return tmp_path


def commands(page: Path) -> list[str]:
    """What is typed after `normsmith` in the consoles of a page; comments left out."""
    consoles = "".join(block.code for block in blocks(page, "console"))
    return [found.strip() for found in re.findall(r"^\$ normsmith ([^#\n]+)", consoles, re.MULTILINE)]


def test_there_are_commands() -> None:
    assert {command.split()[0] for command in commands(README)} == {"study", "questions", "fix"}
    assert {command.split()[0] for command in commands(INDEX)} == {"study", "fix", "check"}


@pytest.mark.parametrize("command", dict.fromkeys(commands(README) + commands(INDEX)))
def test_every_command_runs(command: str, folder: Path, normsmith: Callable[..., Ran]) -> None:
    """As it stands; a study with fewer seeds and steps."""
    done = normsmith(*command.split(), *(QUICK.split() if command.startswith("study ") else ()))
    assert done.code == 0, done.err
    if command.startswith("study "):
        (answer,) = json.loads(done.out)["answers"]
        assert answer["question"] == command.rsplit(maxsplit=1)[-1]
        assert {effect["verdict"] for effect in answer["effects"]} <= set(Verdict)
        compared = {effect["name"].split(": ")[1] for effect in answer["effects"]}
        assert compared == {"batch norm before vs after", "batch norm after vs before"}
        assert answer["question"] in (folder / "r.html").read_text(encoding="utf-8")
    for output in re.findall(r"--output (\S+)", command):
        assert (folder / output).exists()
