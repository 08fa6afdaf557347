"""The gallery and the claims say what docs/gallery.json and docs/demo.json say, and no remark contradicts a verdict."""

from __future__ import annotations

import json
import re
import sys
from html import unescape
from typing import Any

import pytest
from tests.docs.pages import DOCS, ROOT
from tests.report.samples import fewer_steps, study

from normsmith.studies import every_question
from normsmith.studies.results import Effect, Verdict
from normsmith.tasks import EMBEDDED, load

sys.path.insert(0, str(ROOT / "scripts"))
import gallery
from exhibits import page
from shared import answers
from shared.facts import fixed_target

sys.path.remove(str(ROOT / "scripts"))

RUNS = answers.kept_runs()
REMARKS = [
    (path.stem, remark)
    for path in sorted(page.REMARKS.glob("*.json"))
    for remark in json.loads(path.read_text(encoding="utf-8"))
]
SAMPLE = gallery.as_run(gallery.ASKED[0], study(fewer_steps()), 7200) | {
    "machine": "2 cores",
    "instruction_set": "AVX2",
    "commit": "0",
}
"""What is kept of a made-up study."""


def run(task: str, *questions: str, **verdicts: str) -> dict[str, Any]:
    """A run with an answer for each question, whose one effect has a verdict."""
    effects = [{"name": "a: relu", "verdict": "holds"}, {"name": "b", "verdict": "not judged"}]
    given = [
        {
            "question": question,
            "effects": [
                {**effects[0], "verdict": verdicts.get(question.replace("-", "_"), "holds")},
                effects[1],
            ],
        }
        for question in questions
    ]
    return {"task": task, "answers": given}


def without_style(text: str) -> str:
    """A page without its style sheet, which it shares with the reports."""
    start, style, rest = text.partition("<style>")
    assert style
    return start + rest.partition("</style>")[2]


def test_the_page_is_written_from_what_is_kept() -> None:
    text = gallery.PAGE.read_text(encoding="utf-8")
    assert without_style(text) == without_style(page.rendered(RUNS)), (
        "write it anew: python scripts/gallery.py --write"
    )
    assert len(text.encode()) < 8_000_000
    assert gallery.as_text(gallery.kept()) == answers.GALLERY.read_text(encoding="utf-8")


def test_every_question_has_a_section_and_every_run_its_answers() -> None:
    text = gallery.PAGE.read_text(encoding="utf-8")
    for question in every_question():
        assert f'<section id="{question}"' in text
    for each in RUNS:
        for answer in each["answers"]:
            assert f'id="{answer["question"]}-{each["task"]}"' in text


def test_the_gallery_wins_over_the_demo_and_the_demo_over_nothing() -> None:
    demo = run("digits-mlp", "placement", "dropout", placement="inconclusive")
    runs = answers.together(demo, [run("digits-mlp", "placement"), run("wine", "dropout", "saturation")])
    assert [(each["task"], [answer["question"] for answer in each["answers"]]) for each in runs] == [
        ("digits-mlp", ["placement"]),
        ("wine", ["dropout", "saturation"]),
        ("digits-mlp", ["dropout"]),
    ]
    found = {name: answers.answer_of(name, runs) for name in ("placement", "dropout", "saturation", "x")}
    assert [known and known[0]["task"] for known in found.values()] == [
        "digits-mlp",
        "digits-mlp",
        "wine",
        None,
    ]
    assert answers.together(demo, [run("digits-mlp", "placement", "dropout")])[1:] == []


def test_a_verdict_goes_to_every_row_of_its_question_and_no_other() -> None:
    page_ = "\n".join(
        (
            "| [Why ε](#why) | [`affine`](questions/affine.md) | – |",
            "| [Placement](#placement) | [`placement`](questions/placement.md) | – |",
            "| [Elsewhere](#e) | [`dropout`](questions/dropout.md) | – |",
            "| [Not asked](#n) | [`other`](questions/other.md) | – |",
            "| [Proved](#p) | an identity | proved |",
        )
    )
    first, *_ = SAMPLE["answers"][0]["effects"]
    known = {**first, "name": "steps to 0.95, relu: batch norm before vs after", "unit": "steps to target"}
    of = {
        "placement": known,
        "dropout": {**known, "name": "variance shift, dropout between vs none"},
        "affine": first,
    }
    asked = {name: {"question": name, "effects": [effect]} for name, effect in of.items()}
    runs = [
        {"task": "digits-mlp", "answers": [asked["affine"], asked["placement"]]},
        {"task": "wine", "answers": [asked["dropout"]]},
    ]
    affine, placement, dropout, other, proved = (
        row.split(" | ")[2] for row in answers.with_verdicts(page_, runs).splitlines()
    )
    start = f"**{first['verdict']}** ({first['beyond']} : {first['short']}): "
    assert (affine, other, proved) == ("not judged |", "– |", "proved |"), "no hypothesis is about ε"
    assert placement.startswith(f"{start}With ReLU, batch norm before the activation is ")
    assert dropout.startswith(f"{start}On wine: with dropout between the layers, ")


def test_what_is_kept_of_a_study_can_be_shown() -> None:
    again = json.loads(gallery.as_text([SAMPLE]))["runs"]
    assert again == [SAMPLE]
    text = page.rendered([{**SAMPLE, "answers": []}])
    assert text.count("Not run yet") == len(every_question()) + len(page.CLAIMS)
    asked = {**SAMPLE["answers"][0], "question": "placement"}
    shown = page.exhibit(SAMPLE, asked)
    assert len(shown.figures) >= 2, "the paired effects, and the picture"
    text = page.rendered([{**SAMPLE, "answers": [asked]}])
    assert "NaN" not in text
    for finding in shown.findings:
        assert all(
            said in unescape(text) for said in (finding.hypothesis, finding.sentence, finding.certainty)
        )


def test_a_task_that_runs_again_takes_the_place_of_its_old_run() -> None:
    runs = [{"task": "digits-mlp", "trials": 1}, {"task": "wine", "trials": 1}]
    assert gallery.with_run(runs, {"task": "wine", "trials": 2}) == [runs[0], {"task": "wine", "trials": 2}]
    assert [each["task"] for each in gallery.with_run(runs, {"task": "digits-cnn"})] == [
        "digits-mlp",
        "digits-cnn",
        "wine",
    ]


def test_every_task_that_is_asked_can_be_and_the_main_one_is_asked_everything_in_full() -> None:
    main, *others = gallery.ASKED
    assert (main.task, main.profile, main.questions) == (answers.MAIN, "full", ())
    for each in gallery.ASKED:
        assert set(each.questions) <= set(every_question())
        assert each.task.startswith(load(each.of or each.task).name), (
            "a task, or it on data that a question makes"
        )
        assert each.of or each.task in EMBEDDED
    asked = {question for each in others for question in each.questions}
    assert {"own-norms", "recurrent-norms"} <= asked, "the main task cannot be asked these"
    with pytest.raises(SystemExit, match=r"expected tasks out of digits-mlp, .*, got 'mnist'"):
        gallery.chosen(["wine", "mnist"])


def a_remark(question: str, remark: dict[str, Any], verdict: str) -> list[str]:
    effect = Effect.model_validate(SAMPLE["answers"][0]["effects"][0])
    changed = effect.model_copy(update={"name": remark["hypothesis"], "verdict": Verdict(verdict)})
    return page.remarks(question, remark["task"], [changed])


@pytest.mark.parametrize(("question", "remark"), REMARKS, ids=[f"{q}: {r['hypothesis']}" for q, r in REMARKS])
def test_a_remark_is_shown_for_the_verdicts_that_it_expects_and_no_other(
    question: str, remark: dict[str, Any]
) -> None:
    assert {*remark} == {"task", "hypothesis", "expects", "text"}
    assert Verdict.HOLDS not in remark["expects"], "what holds needs no excuse"
    for verdict in Verdict:
        shown = remark["text"] in a_remark(question, remark, verdict)
        assert shown == (verdict in remark["expects"])
    assert page.remarks(question, "another task", []) == []


@pytest.mark.parametrize(("question", "remark"), REMARKS, ids=[f"{q}: {r['hypothesis']}" for q, r in REMARKS])
def test_a_remark_is_on_a_hypothesis_that_there_is_and_quotes_no_figure_of_ours(
    question: str, remark: dict[str, Any]
) -> None:
    assert question in every_question()
    assert remark["task"] in {each.task for each in gallery.ASKED}
    assert not re.search(r"\d[.,]\d|\d ?%|\d ?×", remark["text"]), "figures come from the results"
    for each, answer in page.answers_to(question, RUNS):
        if each["task"] == remark["task"] and each["profile"] == "full":
            assert remark["hypothesis"] in {effect["name"] for effect in answer["effects"]}


def test_remarks_on_the_page_agree_with_the_verdicts_beside_them() -> None:
    text = gallery.PAGE.read_text(encoding="utf-8")
    expected = {remark["text"]: False for _, remark in REMARKS}  # one text may be on several hypotheses
    for question, remark in REMARKS:
        expected[remark["text"]] |= any(
            effect["verdict"] in remark["expects"]
            for each, answer in page.answers_to(question, RUNS)
            if each["task"] == remark["task"]
            for effect in answer["effects"]
            if effect["name"] == remark["hypothesis"]
        )
    for said, shown in expected.items():
        assert (said.replace("'", "&#39;") in text) == shown


def test_the_kept_runs_are_whole() -> None:
    for each in RUNS:
        assert {"machine", "instruction_set", "versions", "commit", "started", "profile", "seeds"} <= set(
            each
        )
        for answer in each["answers"]:
            effects = [Effect.model_validate(effect) for effect in answer["effects"]]
            assert effects
            assert max(len(effect.seeds) for effect in effects) == each["seeds"]


def test_no_claim_has_a_dash_once_every_task_was_run() -> None:
    """But for questions that no profile asks, unless the gallery asks them by name."""
    by_name_alone = {f"`{name}`" for name, question in every_question().items() if not question.profiles}
    if {each.task for each in gallery.ASKED} <= {each["task"] for each in RUNS}:
        rows = re.findall(r"^\| \[.*\| – \|$", (DOCS / "claims.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert [row for row in rows if not any(name in row for name in by_name_alone)] == []


def test_the_page_is_offered_where_readers_look() -> None:
    assert "gallery.html" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert '<a href="gallery.html">' in (DOCS / "index.md").read_text(encoding="utf-8")
    assert "gallery.html" in (DOCS / "conf.py").read_text(encoding="utf-8")


def test_a_target_that_each_question_takes_from_its_controls_is_no_line_in_a_chart():
    runs = {run["task"]: run for run in answers.kept_runs()}
    assert fixed_target(runs["digits-mlp"]) == "0.95"
    assert fixed_target(runs["diabetes"]) == ""
