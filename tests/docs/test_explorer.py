"""The explorer page has what was kept of its runs, and what the studies said."""

from __future__ import annotations

import json
import re
import sys

import pytest
from tests.docs.pages import DOCS, ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import explorer
from explore import evidence, levels, margins, page, runs
from shared.answers import answer_of, kept_runs

sys.path.remove(str(ROOT / "scripts"))

KEPT = json.loads(explorer.RUNS.read_text(encoding="utf-8"))
STUDIES = kept_runs()
CLAIMS_PAGE = (DOCS / "claims.md").read_text(encoding="utf-8")


def test_every_setting_was_trained_to_the_end() -> None:
    assert list(KEPT["runs"]) == [setting.key for setting in explorer.grid()]
    assert {
        name: json.loads(json.dumps(value)) for name, value in explorer.axes().items()
    }.items() <= KEPT.items()
    for key, run in KEPT["runs"].items():
        assert run["diverged"] is not None or len(run["train"]["loss"]) == len(runs.EVALUATED), key
    assert {"machine", "instruction_set", "torch", "commit"} <= set(KEPT)


EFFECT = {
    "name": "steps to 0.95", "hypothesis": "batch norm is faster", "treatment": "batch norm", "control": "no norm",
    "unit": "steps to target", "scale": "ratio", "kind": "superiority", "better": "lower", "margin": 0.4,
    "seeds": list(range(6)),
    "effects": [[0.5, 0.5], [0.7, "Infinity"], [-0.1, -0.1], [0.0, 0.0], [0.6, 0.6], [0.2, 0.2]],
    "median": [0.35, 0.35], "interval": [-0.1, 0.7], "beyond": 3, "short": 3, "needed": 6,
    "p": 1.0, "p_adjusted": 1.0, "verdict": "inconclusive", "sentence": "",
}  # fmt: skip


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
    _, answer = answer_of("small-batches", changed)
    answer["effects"][0]["verdict"] = "reversed"
    assert page.rendered(KEPT, changed, CLAIMS_PAGE) != page.rendered(KEPT, STUDIES, CLAIMS_PAGE)
    other = {
        **KEPT,
        "runs": {**KEPT["runs"], "none//64/4/1": {**KEPT["runs"]["none//64/4/1"], "diverged": 3}},
    }
    assert "diverged at step 3" in page.rendered(other, STUDIES, CLAIMS_PAGE)


def test_what_no_study_answered_is_said_to_be_open() -> None:
    nothing = page.sentences(KEPT, [], CLAIMS_PAGE)
    assert all(sentence.evidence == [] and sentence.open == sentence.questions for sentence in nothing)
    text = page.rendered(KEPT, [], CLAIMS_PAGE)
    assert text.count("Not answered yet:") == sum(len(sentence.open) for sentence in nothing) > 10
    with pytest.raises(ValueError, match=r"expected a claim of docs/claims\.md, got 'Magic'"):
        page.anchor("Magic", CLAIMS_PAGE)


def test_every_sentence_has_hypotheses_that_test_it_or_tests_that_prove_it() -> None:
    """An effect that was given another name would go missing without a word."""
    proofs = (ROOT / page.PROOFS).read_text(encoding="utf-8")
    for sentence in page.sentences(KEPT, STUDIES, CLAIMS_PAGE):
        assert sentence.evidence or sentence.open or sentence.proved or sentence.levels, sentence.name
        assert all(f"def {proof}(" in proofs for proof in sentence.proved), sentence.name
    for each in json.loads((page.PARTS / "sentences.json").read_text(encoding="utf-8"))["sentences"]:
        for asked in each.get("evidence", []):
            found, unanswered = evidence.evidence_of([asked], STUDIES)
            assert found or unanswered, (each["name"], asked)


@pytest.mark.parametrize(
    ("verdict", "says", "denies"),
    [
        ("holds", "for", "against"),
        ("does not hold here", "against", "for"),
        ("reversed", "against", "for"),
        ("inconclusive", "undecided", "undecided"),
        ("not judged", "not judged", "not judged"),
    ],
)
def test_a_verdict_is_for_or_against_a_sentence(verdict: str, says: str, denies: str) -> None:
    run = {
        "task": "digits-mlp",
        "answers": [{"question": "asked", "notes": [], "effects": [EFFECT | {"verdict": verdict}]}],
    }
    sides = [
        evidence.evidence_of([{"question": "asked", "against": against}], [run])[0][0].side
        for against in (False, True)
    ]
    assert sides == [says, denies]


def test_what_another_network_answers_otherwise_is_said_and_what_says_nothing_is_not() -> None:
    def run(task: str, verdict: str, **changed: object) -> dict[str, object]:
        effect = EFFECT | {"verdict": verdict, "name": f"steps to {len(task)}"} | changed
        return {
            "task": task,
            "answers": [{"question": "asked", "notes": [], "effects": [effect]}],
        }

    def otherwise(main: str, *others: dict[str, object], **asked: object) -> list[tuple[str, str]]:
        found, _ = evidence.evidence_of(
            [{"question": "asked", **asked}], [run("digits-mlp", main, name="steps to 0.95"), *others]
        )
        return [(each.on, each.side) for each in found if each.otherwise]

    assert otherwise("holds", run("shapes", "inconclusive"), run("wine", "holds")) == [
        ("Otherwise on shapes.", "undecided")
    ]
    assert otherwise("inconclusive", run("shapes", "reversed"), run("wine", "not judged")) == [
        ("Otherwise on shapes.", "against")
    ]
    assert otherwise("does not hold here", run("shapes", "inconclusive")) == []
    assert otherwise("holds", run("shapes", "reversed", name="another hypothesis")) == []
    unknown = [["-Infinity", "Infinity"]] * 6
    assert otherwise("holds", run("shapes", "does not hold here", effects=unknown)) == []
    assert otherwise("holds", run("shapes", "reversed"), task="digits-mlp") == []


def test_a_margin_stands_beside_the_seeds_that_have_it_and_those_in_its_direction() -> None:
    def asked(*effects: dict[str, object], **entry: object) -> list[str]:
        answer = {"question": "asked", "notes": [], "effects": [EFFECT | effect for effect in effects]}
        found, _ = evidence.evidence_of(
            [{"question": "asked", **entry}], [{"task": "digits-mlp", "answers": [answer]}]
        )
        return margins.asked(found)

    assert asked({}) == ["Asked: at most 0.67× the steps; so in 3 of 6 seeds (faster at all in 4)."]
    assert asked({}, {"name": "b", "beyond": 1}, against=True) == [
        "Asked as its opposite: at most 0.67× the steps; so in 3 and 1 of 6 seeds (faster at all in 4 each)."
    ]
    slower = {"effects": [[-0.5, -0.5], ["-Infinity", -0.2], *[[0.0, 0.0]] * 4], "beyond": 0}
    assert asked(slower) == ["Asked: at most 0.67× the steps; so in 0 of 6 seeds (slower in 2)."]
    assert asked({"verdict": "not judged"}) == []


def test_what_networks_reached_is_read_from_the_table_of_their_answer() -> None:
    table = {"columns": ["arm", "test metric"], "rows": [["a", "0.95"], ["b", "0.9139"]]}
    run = {
        "task": "digits-rnn",
        "seeds": 10,
        "task_facts": {"metric": "accuracy, higher is better"},
        "answers": [{"question": "asked", "arms": table}],
    }
    assert levels.levels_of({"question": "asked", "arms": ["b", "a"]}, [run]) == (
        "Test accuracy at the end, median of 10 seeds, not judged: b 91.4 %; a 95 %."
    )
    assert levels.levels_of({"question": "asked", "arms": ["a"]}, []) == ""
    with pytest.raises(KeyError):
        levels.levels_of({"question": "asked", "arms": ["c"]}, [run])


def test_a_button_says_all_that_is_not_as_usual() -> None:
    usual = page.listed()["usual"]
    labels = [each.label for each in page.shown(KEPT, usual, [{"batch": 4}, {"batch": 4, "norm": "layer"}])]
    assert labels == ["batch norm, batch size 4", "layer norm, batch size 4"]


def test_a_hypothesis_that_a_ceiling_made_impossible_is_no_finding_against_it() -> None:
    note = "A ceiling: “no norm” is at 96.4 of 100 points, if the metric ends at 1."
    points = {"unit": "points", "scale": "difference", "better": "higher", "verdict": "does not hold here"}
    answer = {"question": "asked", "notes": [note], "effects": [EFFECT | points]}
    (found,), _ = evidence.evidence_of([{"question": "asked"}], [{"task": "digits-mlp", "answers": [answer]}])
    assert found.side == "could not be shown here"


def test_every_sentence_that_is_seen_compares_runs_that_differ() -> None:
    for sentence in page.sentences(KEPT, STUDIES, CLAIMS_PAGE):
        labels = [shown.label for shown in sentence.shown]
        assert len(set(labels)) == len(labels) != 1, sentence.name
        assert bool(sentence.shown) == bool(sentence.look) == bool(sentence.panel), sentence.name
        assert all(shown.settings["gain"] == 1 or {**shown.settings, **KEPT["scaled"]} == shown.settings
                   for shown in sentence.shown), sentence.name  # fmt: skip


def test_gallery_and_explorer_lead_to_places_of_each_other() -> None:
    texts = {name: (DOCS / f"{name}.html").read_text(encoding="utf-8") for name in ("gallery", "explorer")}
    for name, other in (("gallery", "explorer"), ("explorer", "gallery")):
        led_to = re.findall(rf'href="{other}\.html#([^"]+)"', texts[name])
        assert len(set(led_to)) > 8
        assert all(f'id="{place}"' in texts[other] for place in led_to)
