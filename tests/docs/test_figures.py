"""The figures of README and the claims are those of docs/demo.json, which a command writes."""

from __future__ import annotations

import json
import runpy

import pytest
from tests.docs.pages import ROOT

from normsmith.studies.results import Effect

SCRIPT = runpy.run_path(str(ROOT / "scripts/figures.py"))
KEPT = json.loads((ROOT / "docs/demo.json").read_text(encoding="utf-8"))


PAGES = {
    "README.md": "with_figures",
    "docs/claims.md": "with_verdicts",
    "docs/howto/which-norm.md": "with_sizes",
}


@pytest.mark.parametrize(("page", "written"), PAGES.items())
def test_the_page_says_what_the_demo_found(page: str, written: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert SCRIPT[written](text, KEPT) == text, "write it anew: make figures"


def test_the_kept_figures_are_whole() -> None:
    effects = [Effect.model_validate(effect) for answer in KEPT["answers"] for effect in answer["effects"]]
    assert len(effects) > 10
    assert {len(effect.seeds) for effect in effects} == {KEPT["seeds"]}
    assert {"machine", "instruction_set", "versions", "commit", "started"} <= set(KEPT)


def test_a_changed_verdict_is_seen() -> None:
    changed = json.loads(json.dumps(KEPT))
    changed["answers"][0]["effects"][0]["verdict"] = "reversed"
    for page in ("README.md", "docs/claims.md"):
        written = PAGES[page]
        text = (ROOT / page).read_text(encoding="utf-8")
        assert SCRIPT[written](text, changed) != text
