"""A comparison in words and as JSON."""

from __future__ import annotations

import json

from normsmith.report.comparison import comparison_to_json, comparison_to_text
from normsmith.studies.comparison import Comparison, HypothesisCompared, OtherVersions, Said, SameKey, Unequal
from normsmith.studies.results import Verdict

HOLDS, NOT = Said(Verdict.HOLDS, "0.4×", 10), Said(Verdict.NOT_HERE, "0.9×", 10)
COMPARISON = Comparison(
    "sqlite:///a.db",
    "sqlite:///b.db",
    (7, 8),
    SameKey(7, 0, tuple(Unequal(str(key), f"arm\x1b {key}", "test") for key in range(7))),
    (OtherVersions("digits", {"torch": ("2.13", "2.14")}, 4, 3, 1, 2, 1, 0.25, 1.5, "points", 12),),
    (
        HypothesisCompared("digits", "placement", "before or after", HOLDS, NOT, True),
        HypothesisCompared("digits", "placement", "which", HOLDS, HOLDS, False),
    ),
)


def test_text_names_what_differs_and_what_contradicts():
    text = comparison_to_text(COMPARISON)
    assert "\x1b" not in text
    for words in (
        "7 trials; 0 have the same results to the last bit, 7 have others.",
        "  and 2 more",
        "Computed by other versions (torch 2.13 and 2.14): 4 trials of digits.",
        "higher in the second store in 2, lower in 1; it differs by 0.25 points in the median, 1.5 at most",
        "1 trial finished in one store only",
        "CONTRADICTION: digits, placement, before or after: holds, 0.4×, 10 seeds | does not hold here, 0.9×, 10 seeds",
        "The stores do not agree: 1 verdict contradict, 7 trials with other results under the same key.",
    ):
        assert words.strip() in text, words
    assert text.count("CONTRADICTION") == 1


def test_json_is_whole():
    whole = json.loads(comparison_to_json(COMPARISON))
    assert len(whole["same_key"]["unequal"]) == 7
    assert whole["other_versions"][0]["versions"] == {"torch": ["2.13", "2.14"]}
    assert whole["hypotheses"][0]["second"]["verdict"] == "does not hold here"
    assert whole["agree"] is False
