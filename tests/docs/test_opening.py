"""README begins with what an example prints, and with its picture, which a command writes."""

from __future__ import annotations

import re
import runpy

from tests.docs.pages import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts/opening.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def without_numbers(text: str) -> str:
    return re.sub(r"\d[\d.e-]*", "#", text)


def test_the_readme_says_what_the_example_prints_and_shows_its_picture() -> None:
    printed, findings = SCRIPT["example"]()
    written = SCRIPT["with_example"](README, printed)
    assert without_numbers(written) == without_numbers(README), "write it anew: make opening"
    (finding,) = [finding for finding in findings if finding.evidence]
    drawn = SCRIPT["picture"](finding)
    kept = (ROOT / "docs/_static/averaged.svg").read_text(encoding="utf-8")
    assert [re.findall("<text[^>]*>([^<]+)</text>", text)[0] for text in (drawn, kept)] == [
        "From training to evaluation: where the loss goes"
    ] * 2
    assert "averaged.svg" in README
