"""What the studies answered, as the repository keeps it: the gallery's runs, and the demo's where those are silent.

Pages that quote verdicts (docs/claims.md, the gallery) take them from here, so that all of them say the same.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from normsmith.studies.results import Verdict

ROOT = Path(__file__).resolve().parents[2]
DEMO, GALLERY = ROOT / "docs/demo.json", ROOT / "docs/gallery.json"
MAIN = "digits-mlp"
"""The task that the verdicts of docs/claims.md are on, where a cell names no other."""
ABOUT = {"Why ε": "ε", "Why γ and β": "γ", "Renormalization": "renorm"}
"""Claims that share a question with another one, and a word that the names of the hypotheses about them have."""
LACKING = {
    "profile": "quick",
    "task_facts": {},
    "skipped": {},
    "why": "What is not in the gallery's run yet.",
}
"""What the gallery keeps of a run and the demo does not."""

Run = dict[str, Any]
"""One study of one task: what was run and where, and its answers, each with its effects."""


def kept_runs() -> list[Run]:
    """The runs that are kept, those of the gallery first."""
    demo, gallery = (json.loads(path.read_text(encoding="utf-8")) for path in (DEMO, GALLERY))
    return together(demo, gallery["runs"])


def together(demo: Run, gallery: list[Run]) -> list[Run]:
    """All runs of the gallery, and the demo's answers to questions that none of them answers on the demo's task."""
    answered = {
        answer["question"] for run in gallery if run["task"] == demo["task"] for answer in run["answers"]
    }
    rest = [answer for answer in demo["answers"] if answer["question"] not in answered]
    return [*gallery, *([{**demo, **LACKING, "answers": rest}] if rest else [])]


def answer_of(question: str, runs: list[Run]) -> tuple[Run, dict[str, Any]] | None:
    """The run that answered a question, on the main task if one did there, and its answer."""
    of_all = [(run, a) for run in runs for a in run["answers"] if a["question"] == question]
    return min(of_all, key=lambda both: both[0]["task"] != MAIN, default=None)


def with_verdicts(page: str, runs: list[Run]) -> str:
    """The table of claims with the verdicts on those of its questions that were answered."""

    def row(match: re.Match[str]) -> str:
        known = answer_of(match["question"], runs)
        if known is None:
            return match[0]
        return f"{match['begin']} {cell(*known, about=ABOUT.get(match['claim'], ''))} |"

    return re.sub(
        r"^(?P<begin>\| \[(?P<claim>.*?)\]\(.*?\) \| \[`(?P<question>[a-z-]+)`\]\(.*?\) \|) .* \|$",
        row,
        page,
        flags=re.MULTILINE,
    )


def cell(run: Run, answer: dict[str, Any], *, about: str = "") -> str:
    """`holds (relu · tanh); inconclusive (sigmoid)`: the judged hypotheses, those whose names have the word `about`."""
    named: dict[str, list[str]] = {}
    for effect in answer["effects"]:
        if about in effect["name"] and effect["verdict"] != Verdict.NOT_JUDGED:
            named.setdefault(effect["verdict"], []).append(effect["name"])
    on = "" if run["task"] == MAIN else f"on {run['task']}: "
    return "; ".join(f"{verdict} ({on}{' · '.join(names)})" for verdict, names in named.items()) or (
        Verdict.NOT_JUDGED.value
    )
