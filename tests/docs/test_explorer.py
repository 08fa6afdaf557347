"""The explorer page has what was kept of its runs, and what the studies said."""

from __future__ import annotations

import json
import sys

import pytest
from tests.docs.pages import DOCS, ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import explorer
from explore import page, runs
from shared.answers import MAIN, kept_runs

sys.path.remove(str(ROOT / "scripts"))

KEPT = json.loads(explorer.RUNS.read_text(encoding="utf-8"))
STUDIES = [run for run in kept_runs() if run["task"] == MAIN]
CLAIMS = (DOCS / "claims.md").read_text(encoding="utf-8")


def test_every_setting_was_trained_to_the_end() -> None:
    assert list(KEPT["runs"]) == [setting.key for setting in explorer.grid()]
    assert {
        name: json.loads(json.dumps(value)) for name, value in explorer.axes().items()
    }.items() <= KEPT.items()
    for key, run in KEPT["runs"].items():
        assert run["diverged"] is not None or len(run["train"]["loss"]) == len(runs.EVALUATED), key
    assert {"machine", "instruction_set", "torch", "commit"} <= set(KEPT)


def without_style(text: str) -> str:
    """A page without its style sheet, which it shares with the reports: what it says does not depend on it."""
    start, style, rest = text.partition("<style>")
    assert style
    return start + rest.partition("</style>")[2]


def test_the_page_is_written_from_what_is_kept() -> None:
    text = explorer.PAGE.read_text(encoding="utf-8")
    assert without_style(text) == without_style(explorer.written()), (
        "write it anew: python scripts/explorer.py --write"
    )
    assert explorer.RUNS.stat().st_size < 1_500_000


def test_a_changed_verdict_or_run_is_seen_on_the_page() -> None:
    changed = json.loads(json.dumps(STUDIES))
    (answer,) = [
        answer for run in changed for answer in run["answers"] if answer["question"] == "small-batches"
    ]
    answer["effects"][0]["verdict"] = "reversed"
    assert page.rendered(KEPT, changed, CLAIMS) != page.rendered(KEPT, STUDIES, CLAIMS)
    other = {
        **KEPT,
        "runs": {**KEPT["runs"], "none//64/4/1": {**KEPT["runs"]["none//64/4/1"], "diverged": 3}},
    }
    assert "diverged at step 3" in page.rendered(other, STUDIES, CLAIMS)


def test_claims_that_no_study_answered_are_not_measured_yet() -> None:
    nothing = page.sentences(KEPT, [], CLAIMS)
    assert all(sentence.effects == [] for sentence in nothing)
    text = page.rendered(KEPT, [], CLAIMS)
    assert text.count("Not measured yet.") == len(nothing)
    with pytest.raises(ValueError, match=r"expected a claim of docs/claims\.md, got 'Magic'"):
        page.effects("Magic", [], CLAIMS)


def test_every_sentence_compares_runs_that_differ() -> None:
    for sentence in page.sentences(KEPT, STUDIES, CLAIMS):
        labels = [shown.label for shown in sentence.shown]
        assert len(set(labels)) == len(labels) > 1, sentence.name
        assert all(shown.settings["gain"] == 1 or {**shown.settings, **KEPT["scaled"]} == shown.settings
                   for shown in sentence.shown), sentence.name  # fmt: skip
