"""What the studies answered, as the repository keeps it: the gallery's runs, and the demo's where those are silent.

Pages that quote verdicts (docs/claims.md, the gallery) take them from here, so that all of them say the same.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from normsmith.studies.results import Verdict
from shared.claims import CLAIMS, MAIN, Claim, Run, lines

__all__ = ["MAIN", "Run", "answer_of", "kept_runs", "together", "with_verdicts"]

ROOT = Path(__file__).resolve().parents[2]
DEMO, GALLERY = ROOT / "docs/demo.json", ROOT / "docs/gallery.json"
ABOUT = {"Why ε": "ε", "Why γ and β": "γ", "Renormalization": "renorm"}
"""Claims that share a question with another one, and a word that the names of the hypotheses about them have."""
LACKING = {
    "profile": "quick",
    "task_facts": {},
    "skipped": {},
    "why": "What is not in the gallery's run yet.",
}
"""What the gallery keeps of a run and the demo does not."""


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
    """The table of claims with what was found on those of its questions that were answered."""

    def row(match: re.Match[str]) -> str:
        if answer_of(match["question"], runs) is None:
            return match[0]
        return f"{match['begin']} {cell(match['question'], runs, about=ABOUT.get(match['claim'], ''))} |"

    return re.sub(
        r"^(?P<begin>\| \[(?P<claim>.*?)\]\(.*?\) \| \[`(?P<question>[a-z-]+)`\]\(.*?\) \|) .* \|$",
        row,
        page,
        flags=re.MULTILINE,
    )


def cell(question: str, runs: list[Run], *, about: str = "") -> str:
    """`**holds** (16 : 4): …`, a line for each sentence on a question, those on what `about` is where that is said."""
    claim = next((claim for claim in CLAIMS if claim.question == question), None)
    if claim is None:
        claim = Claim(question, "", ((question, (".*",)),))
    return "<br>".join(
        f"**{line.finding.verdict}** ({line.finding.sides}): {line.sentence}".replace(" (–)", "")
        for line in lines(claim, runs)
        if about in line.finding.effect.name
    ) or (Verdict.NOT_JUDGED.value)
