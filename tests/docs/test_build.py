"""The documentation builds without a warning and has a page for every question."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import DOCS

from normsmith import layers
from normsmith.studies import every_question


def test_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet",
         "--define", "toc_object_entries=0",  # functions in tables of contents, which take a third of the time
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
    ids = set(re.findall(r'id="(?:module-)?normsmith\.layers\.(\w+)"', reference))
    assert set(layers.__all__) <= ids
    command = (tmp_path / "html" / "reference" / "command-line.html").read_text(encoding="utf-8")
    assert "--profile" in command
    html = {page: page.read_text(encoding="utf-8") for page in (tmp_path / "html").rglob("*.html")}
    anchors = re.findall(r'href="claims\.(\w+)#([^"]+)"', html[tmp_path / "html" / "explorer.html"])
    assert {kind for kind, _ in anchors} == {"html"}
    assert all(f'id="{anchor}"' in html[tmp_path / "html" / "claims.html"] for _, anchor in anchors)
    dashed = {page.name for page, text in html.items() if re.search(r"(?<!\w)[–—][a-z]", prose(text))}
    assert not dashed, "the two hyphens of an option became a dash"
    semantics = html[tmp_path / "html" / "explanation" / "semantics.html"]
    assert "<mfrac>" in semantics
    assert not any(re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", text) for text in html.values())


def prose(html: str) -> str:
    """The text of a page, without its tags."""
    return re.sub(r"<[^>]+>", " ", html)
