"""docs/claims.md stays true: names exist, every question is on the page, verdicts are verdicts."""

from __future__ import annotations

import importlib
import re
import sys

import pytest
from tests.docs.pages import DOCS, ROOT

from normsmith.studies import Verdict, every_question

sys.path.insert(0, str(ROOT / "scripts"))
from shared import answers
from shared.findings import IMPOSSIBLE

sys.path.remove(str(ROOT / "scripts"))

TEXT = (DOCS / "claims.md").read_text(encoding="utf-8")
CODE = sorted(set(re.findall(r"`(normsmith(?:\.\w+)+)`", TEXT)))
LINKED = re.findall(r"\[`([a-z0-9-]+)`\]\(questions/([a-z0-9-]+)\.md\)", TEXT)
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.splitlines()
    if line.startswith("| [")
]
SECTIONS = [part.partition("\n## ")[0] for part in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]]
NOT_YET = "–"
IDENTITY = "an identity"
PROOF = re.compile(r"proved by a test: \[[\w.]+\]\(\.\./(tests/docs/\w+\.py)\)")
RUNS = answers.kept_runs()


def lookup(dotted: str) -> object:
    """The module, or what a module calls by that name, however deep."""
    module, _, rest = dotted.partition(".")
    found: object = importlib.import_module(module)
    for part in rest.split("."):
        module = f"{module}.{part}"
        found = getattr(found, part) if hasattr(found, part) else importlib.import_module(module)
    return found


def test_lookup_finds_what_exists_only() -> None:
    assert lookup("normsmith.studies.Verdict") is Verdict
    with pytest.raises(ImportError):
        lookup("normsmith.studies.NoSuchName")


@pytest.mark.parametrize("dotted", CODE)
def test_every_name_exists(dotted: str) -> None:
    lookup(dotted)


def test_questions_are_the_ones_that_exist() -> None:
    assert all(text == page for text, page in LINKED)
    assert {text for text, _ in LINKED} == set(every_question())


def test_every_claim_has_a_row_and_a_section() -> None:
    """Claim, question, verdict; the claim links to its section, and each section has a row."""
    headings = re.findall(r"^### (.+)$", TEXT, re.MULTILINE)
    linked = [re.match(r"\[(.+)\]\(#(.+)\)$", row[0]) for row in ROWS]
    assert all(len(row) == 3 for row in ROWS)
    assert [link and link[1] for link in linked] == headings
    assert [link and link[2] for link in linked] == [
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
    ]


@pytest.mark.parametrize("section", SECTIONS, ids=[section.partition("\n")[0] for section in SECTIONS])
def test_every_section_has_source_place_and_explanation(section: str) -> None:
    """A line *source* · here: `name` (the name only where code computes it), then a text to learn from."""
    _, _, facts, *text = section.split("\n", 3)
    assert re.fullmatch(r"\*[^*]+\*( · here: `normsmith[\w.]+`)?", facts.replace("\n", ""))
    assert len(" ".join(text).split()) > 60


@pytest.mark.parametrize("row", ROWS, ids=[row[0].partition("]")[0][1:] for row in ROWS])
def test_verdict_cells(row: list[str]) -> None:
    """Lines that begin with a verdict and its seeds, `**holds** (16 : 4): …`, or the test of an identity."""
    question, verdict = row[1:]
    if question == IDENTITY:
        proof = PROOF.fullmatch(verdict)
        assert proof
        assert (ROOT / proof[1]).exists()
        return
    named = re.fullmatch(r"\[`([a-z0-9-]+)`\]\(questions/[a-z0-9-]+\.md\)", question)
    assert named
    if answers.answer_of(named[1], RUNS) is None:
        assert verdict == NOT_YET
        return
    for line in verdict.split("<br>"):
        found = re.fullmatch(r"\*\*(.+)\*\*( \(\d+ : \d+\))?: \S.*\.", line)
        assert found
        assert found[1] in {*Verdict, IMPOSSIBLE}
        assert found[2] or found[1] == IMPOSSIBLE or "othing can be said" in line


def test_verdicts_are_those_of_the_studies() -> None:
    assert answers.with_verdicts(TEXT, RUNS) == TEXT, "write it anew: python scripts/gallery.py --write"


def test_names_outside_the_table_are_in_code_that_is_checked() -> None:
    """A layer that is named without its package would escape the check above."""
    bare = re.findall(r"`(?:Lazy)?Batch(?:Norm|Renorm)\w*`", TEXT)
    assert bare == []
