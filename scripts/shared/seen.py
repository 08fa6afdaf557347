"""Where the explorer shows what a question asks: the sentences of the literature that one sees there in runs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

SENTENCES = Path(__file__).resolve().parents[1] / "explore/sentences.json"


@cache
def seen(question: str) -> list[tuple[str, str]]:
    """The address within the explorer's page and the text of each sentence that a question tests and runs show."""
    return [
        (f"says-{each['name']}", each["text"])
        for each in json.loads(SENTENCES.read_text(encoding="utf-8"))["sentences"]
        if "show" in each and any(asked["question"] == question for asked in each.get("evidence", []))
    ]
