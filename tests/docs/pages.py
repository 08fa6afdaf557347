"""The pages of this project as data: their code blocks and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WRITTEN_AT_BUILD = re.compile(r"questions/(?!index)[a-z0-9-]+\.md|reference/command-line\.md|_build/.*")
"""Pages in docs/ that are written from the code."""
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(
        page
        for page in sorted(DOCS.rglob("*.md"))
        if not WRITTEN_AT_BUILD.fullmatch(str(page.relative_to(DOCS)))
    ),
]
NOT_RUN = "% not run: "
"""A comment on the line before a Python block that cannot run by itself, with the reason."""

_FENCE = re.compile(r"^```(?P<language>[^\n`]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, the line its code starts on, and whether it is meant to be run."""

    page: Path
    line: int
    language: str
    code: str
    runs: bool


def blocks(page: Path, language: str) -> list[Block]:
    """The fenced blocks of a page in `language`, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        before = text[: fence.start()].rstrip("\n").rpartition("\n")[2]
        line = text.count("\n", 0, fence.start()) + 2
        words = fence["language"].strip()
        found.append(Block(page, line, words, fence["code"], not before.startswith(NOT_RUN)))
    return [block for block in found if block.language == language]


def links(page: Path) -> list[str]:
    """The targets of a page's links, code blocks left out."""
    return [link["target"] for link in _LINK.finditer(_FENCE.sub("", page.read_text(encoding="utf-8")))]


def name(page: Path) -> str:
    """A page's path for the names of tests."""
    return str(page.relative_to(ROOT))
