"""The documentation builds without a warning and has a page for every question."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.docs.pages import DOCS

from normsmith import layers
from normsmith.studies import every_question


def test_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet",
         "--builder", "html", "--doctree-dir", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, question in every_question().items():
        page = (tmp_path / "html" / "questions" / f"{name}.html").read_text(encoding="utf-8")
        assert question.title in page
    reference = (tmp_path / "html" / "reference" / "layers.html").read_text(encoding="utf-8")
    assert all(f'id="normsmith.layers.{layer}"' in reference for layer in layers.__all__)
    command = (tmp_path / "html" / "reference" / "command-line.html").read_text(encoding="utf-8")
    assert "--profile" in command
