"""The figures of README are those of docs/demo.json, which a command writes; so are verdicts that no gallery has."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.docs.pages import ROOT

from normsmith.studies.results import Effect

sys.path.insert(0, str(ROOT / "scripts"))
import figures

sys.path.remove(str(ROOT / "scripts"))

Written = Callable[[str, dict[str, Any]], str]
KEPT = json.loads((ROOT / "docs/demo.json").read_text(encoding="utf-8"))


PAGES = {
    "README.md": figures.with_figures,
    "docs/howto/which-norm.md": figures.with_sizes,
}


@pytest.mark.parametrize(("page", "written"), PAGES.items())
def test_the_page_says_what_the_demo_found(page: str, written: Written) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert written(text, KEPT) == text, "write it anew: make figures"


def test_the_kept_figures_are_whole() -> None:
    effects = [Effect.model_validate(effect) for answer in KEPT["answers"] for effect in answer["effects"]]
    assert len(effects) > 10
    assert {len(effect.seeds) for effect in effects} == {KEPT["seeds"]}
    assert {"machine", "instruction_set", "versions", "commit", "started"} <= set(KEPT)


def test_a_changed_verdict_is_seen() -> None:
    changed = json.loads(json.dumps(KEPT))
    changed["answers"][0]["effects"][0]["verdict"] = "reversed"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert figures.with_figures(text, changed) != text
