"""The README is short, shows code at once, and its own-network example works as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT, blocks

from normsmith.studies import Verdict

README = ROOT / "README.md"
TASK_FILE = "my_task.py"


def test_short_with_code_or_a_picture_at_once() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert any(line.startswith(("```", "![")) for line in lines[:20])


def test_own_network_example_is_a_study(tmp_path: Path) -> None:
    """The fifteen lines of my_task.py and the command below them, with fewer seeds and steps."""
    (task,) = [block.code for block in blocks(README, "python") if "Task(" in block.code]
    assert len(task.splitlines()) <= 15
    (tmp_path / TASK_FILE).write_text(task, encoding="utf-8")
    (command,) = re.findall(
        rf"^\$ normsmith (study {TASK_FILE}:task -q \S+)$", README.read_text(), re.MULTILINE
    )
    quick = "--seeds 1 --steps 10 --jobs 1 --format json --report r.html --store sqlite:///s.db"
    done = subprocess.run(
        [sys.executable, "-m", "normsmith", *f"{command} {quick}".split()],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (answer,) = result["answers"]
    assert answer["question"] == command.split()[-1]
    assert {effect["verdict"] for effect in answer["effects"]} <= set(Verdict)
    assert {effect["name"] for effect in answer["effects"]} == {"relu", "tanh", "sigmoid"}
    assert "placement" in (tmp_path / "r.html").read_text(encoding="utf-8")
