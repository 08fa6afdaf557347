"""The page on this folder names every file of it, and no file that is gone."""

from __future__ import annotations

import re
from pathlib import Path

from normsmith.ops import cpu

FOLDER = Path(cpu.__file__).parent


def test_the_page_names_every_file():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b\w+\.py\b", page))
    files = {file.name for file in FOLDER.rglob("*.py")} - {"__init__.py"}
    assert files <= named
    elsewhere = {file.name for file in FOLDER.parent.glob("*.py")}
    assert named <= files | elsewhere
