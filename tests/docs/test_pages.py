"""What the pages tell the reader to type works, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from tests.docs.pages import DOCS, PAGES, ROOT, WRITTEN_AT_BUILD, blocks, links, name

from normsmith.cli.app import app

PYTHON = [page for page in PAGES if blocks(page, "python")]
CONSOLE = [page for page in PAGES if blocks(page, "console")]


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize("page", PYTHON, ids=name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Top to bottom in one namespace, as a reader would."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        source = "\n" * (block.line - 1) + block.code
        code = compile(source, str(page), "exec")
        if block.runs:
            exec(code, namespace)


@pytest.mark.parametrize("page", CONSOLE, ids=name)
def test_commands_are_understood(page: Path) -> None:
    """Every `$ normsmith …` parses (nothing is run) and every `$ make …` is a target."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for block in blocks(page, "console"):
        for line in re.findall(r"^\$ (.*)$", block.code.replace("\\\n", " "), re.MULTILINE):
            command, *words = shlex.split(line, comments=True)
            if command == "make":
                assert set(words) <= targets, f"{name(page)}: {line}"
            elif command == "normsmith" and words != ["--version"]:
                assert words[0] in verbs, f"{name(page)}: {line}"
                redirected = words.index(">") if ">" in words else None
                verbs[words[0]].make_context(words[0], words[1:redirected])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links name a file; links to pages written at build are the build's to check."""
    for target in links(page):
        if re.match(r"[a-z]+:|#", target):
            continue
        path = (page.parent / target.partition("#")[0]).resolve()
        at_build = path.is_relative_to(DOCS) and WRITTEN_AT_BUILD.fullmatch(str(path.relative_to(DOCS)))
        assert path.exists() or at_build, f"{name(page)} links to {target}"
