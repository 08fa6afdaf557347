"""Words that a newcomer has to look up, and that have a plain counterpart, stay out of code, messages and pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAY = {
    "reckon(s|ed|ing)?": "compute",
    "in front of": "before",
    "seats?": "place",
    "spots?": "place",
    "sites?": "place",
    "heirs?": "the module that takes the place of another",
    "givers?": "producer",
    "takers?": "consumer",
    "quests?": "settings",
}
"""What is not said, as a pattern, and what is said for it."""
WORDS = re.compile(rf"(?<![a-z])({'|'.join(SAY)})(?![a-z])", re.IGNORECASE)
"""Names in code are read as words: `_seat_of` has the word seat, `request` has no quest."""
READ = [
    *sorted(ROOT.glob("*.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
    *sorted(path for path in (ROOT / "src").rglob("*") if path.suffix in {".py", ".md", ".j2"}),
]


def opaque(text: str) -> list[str]:
    """The words of a text that have a plain counterpart, with their lines."""
    lines = text.splitlines()
    return [f"{number}: {hit[0]}" for number, line in enumerate(lines, 1) for hit in WORDS.finditer(line)]


def test_words_are_plain() -> None:
    hits = [
        f"{path.relative_to(ROOT)}:{hit}" for path in READ for hit in opaque(path.read_text(encoding="utf-8"))
    ]
    assert hits == [], f"say instead: {SAY}"


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ("weights are reckoned in float64", ["1: reckoned"]),
        ("a norm\nin front of it", ["2: in front of"]),
        ("def _seat_of(heir): ...", ["1: seat", "1: heir"]),
        ("a request for consumers, in the right place", []),
        ("their inheritance; a despot; opposite sides", []),
    ],
)
def test_pattern_finds_words_and_not_parts_of_words(text: str, caught: list[str]) -> None:
    assert opaque(text) == caught
