"""What is written from the code reads as it was meant."""

from __future__ import annotations

import importlib.util

import pytest
from tests.docs.pages import DOCS

from normsmith.studies import every_question

spec = importlib.util.spec_from_file_location("from_code", DOCS / "_ext" / "from_code.py")
assert spec
assert spec.loader
from_code = importlib.util.module_from_spec(spec)
spec.loader.exec_module(from_code)


def made_plain(text: str, what: str = "function") -> list[str]:
    lines = text.split("\n")
    from_code.plain(None, what, "name", None, None, lines)
    return lines


def test_formulas_stay_as_they_are_typed() -> None:
    text = "Normalise.\n\n    y = |x|*2\n\n    z = y\n\nArgs:\n    x: a *number*."
    assert made_plain(text)[1:] == ["", "::", "", "    y = |x|*2", "", "    z = y", *text.split("\n")[5:]]


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("the largest |r − 1|", "the largest \\|r − 1\\|"),
        ("shape (batch, *space) of x", "shape (batch, \\*space) of x"),
        ("reported as *killed* or **not**", "reported as *killed* or **not**"),
        ("`|` and `*` in code", "`|` and `*` in code"),
        ("all $2^n$ of them", "all `2^n` of them"),
    ],
)
def test_stars_and_bars(line: str, made: str) -> None:
    assert made_plain(line) == [made]


def test_examples_are_left_alone() -> None:
    text = "Say it.\n\n>>> print('a|b')\na|b\n\nMore |x|."
    assert made_plain(text) == ["Say it.", "", ">>> print('a|b')", "a|b", "", "More \\|x\\|."]


def test_pages_say_what_the_code_says() -> None:
    for question in every_question().values():
        page = from_code.question_page(question)
        assert page.startswith(f"# {question.title}\n")
        assert all(text in page for text in (question.claim, question.source, question.method))
    page = from_code.command_page()
    assert "--seeds" in page
    assert "with `--output` write" in page
    assert "..." not in page.partition("**Commands**")[2].partition("## ")[0], (
        "a command's sentence is cut off"
    )
