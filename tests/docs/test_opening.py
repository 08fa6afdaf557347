"""README begins with what an example prints, and with its picture, which a command writes."""

from __future__ import annotations

import re
import runpy

from tests.docs.pages import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts/opening.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def printed_in(page: str) -> str:
    """What a page says that the example prints, without its numbers: they differ between machines."""
    (block,) = re.findall(rf"{SCRIPT['BEGIN']}\n```text\n(.*?)\n```", page, re.DOTALL)
    return re.sub(r"\d[\d.e-]*", "#", block)


def test_the_readme_says_what_the_example_prints_and_shows_its_picture() -> None:
    printed, findings = SCRIPT["example"]()
    written = SCRIPT["with_example"](README, printed)
    assert printed_in(written) == printed_in(README), "write it anew: make opening"
    (finding,) = [finding for finding in findings if finding.evidence]
    drawn = SCRIPT["picture"](finding)
    kept = (ROOT / "docs/_static/averaged.svg").read_text(encoding="utf-8")
    assert [re.findall("<text[^>]*>([^<]+)</text>", text)[0] for text in (drawn, kept)] == [
        "From training to evaluation: where the loss goes"
    ] * 2
    assert "averaged.svg" in README
