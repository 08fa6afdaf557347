#!/usr/bin/env python3
"""Ask the demo's questions, keep what came out in docs/demo.json, and write the pages that quote it.

    make figures                              minutes: every trial runs anew
    python scripts/figures.py --write         only write the pages, from docs/demo.json as it is

So no figure on these pages was typed: a test fails where they differ from the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from normsmith import _text
from normsmith.studies import notation
from normsmith.studies.results import Effect, Verdict

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from shared.answers import kept_runs, with_verdicts  # noqa: E402  beside this file

KEPT, README, CLAIMS_PAGE = ROOT / "docs/demo.json", ROOT / "README.md", ROOT / "docs/claims.md"
SIZES = ROOT / "docs/howto/which-norm.md"
BEGIN, END = "<!-- from docs/demo.json: make figures -->", "<!-- end of the figures -->"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the pages only")
    if not parser.parse_args().write:
        KEPT.write_text(json.dumps(asked(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    README.write_text(with_figures(README.read_text(encoding="utf-8"), kept), encoding="utf-8")
    CLAIMS_PAGE.write_text(
        with_verdicts(CLAIMS_PAGE.read_text(encoding="utf-8"), kept_runs()), encoding="utf-8"
    )
    SIZES.write_text(with_sizes(SIZES.read_text(encoding="utf-8"), kept), encoding="utf-8")


def asked() -> dict[str, Any]:
    """What the demo answers, in an empty store, and where it was computed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "normsmith", "study", "--profile", "quick", "--format", "json"]
        command += ["--report", f"{folder}/report.html", "--store", f"sqlite:///{folder}/study.db"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    answers = [
        {name: answer[name] for name in ("question", "headline", "effects")} | {"arms": answer["tables"][0]}
        for answer in result["answers"]
    ]
    return {
        "task": result["task"],
        "seeds": len(result["seeds"]),
        "trials": result["trials_new"],
        "seconds": round(result["seconds"]),
        "started": result["started"],
        "versions": result["versions"],
        **where(),
        "answers": answers,
    }


def where() -> dict[str, str]:
    """The machine, its instruction set, and the commit."""
    sys.path.insert(0, str(ROOT))
    import torch
    from benchmarks.protocol import processor

    commit = git("rev-parse", "--short=10", "HEAD") + (
        " with changes" if git("status", "--porcelain", "src") else ""
    )
    return {
        "machine": f"{os.cpu_count()} cores of {processor()}",
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "commit": commit,
    }


def git(*words: str) -> str:
    """What git prints of this repository."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def with_figures(page: str, kept: dict[str, Any]) -> str:
    """README with the table of what the demo found."""
    return between(page, f"What `make demo` found {facts(kept)}:\n\n{table(kept)}")


def with_sizes(page: str, kept: dict[str, Any]) -> str:
    """The page on batch sizes with the arms of that question, and what they amount to."""
    (answer,) = [answer for answer in kept["answers"] if answer["question"] == "small-batches"]
    arms = answer["arms"]
    wanted = [arms["columns"].index(column) for column in ("arm", "test metric")]
    rows = [f"| {row[wanted[0]]} | {row[wanted[1]]} |" for row in arms["rows"]]
    said = [f"- {effect['sentence']}" for effect in answer["effects"]]
    head = ["| arm | test accuracy in evaluation, median over seeds |", "|---|---|"]
    return between(page, "\n".join([f"Measured {facts(kept)}.", "", *head, *rows, "", *said]))


def between(page: str, text: str, first: str = BEGIN, last: str = END) -> str:
    """A page with this text between its marks."""
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise SystemExit(f"expected the lines {first!r} and {last!r}")
    return f"{before}{first}\n{text}\n\n{last}{after}"


def facts(kept: dict[str, Any]) -> str:
    study = f"{kept['seeds']} seeds, {kept['trials']:,} trials, {_text.duration(kept['seconds'])}"
    where = f"{kept['machine']}, {kept['instruction_set']}, torch {kept['versions']['torch']}, commit {kept['commit']}"
    return f"({study} on {where})"


def table(kept: dict[str, Any]) -> str:
    rows = [
        "| question | hypothesis | effect (95 % interval) | p (Holm) | verdict |",
        "|---|---|---|---|---|",
    ]
    for answer in kept["answers"]:
        for index, each in enumerate(answer["effects"]):
            effect = Effect.model_validate(each)
            question = f"`{answer['question']}`" if index == 0 else ""
            p = "" if effect.verdict is Verdict.NOT_JUDGED else _text.probability(effect.p_adjusted)
            cells = [question, effect.name, notation.estimate_and_interval(effect), p, effect.verdict.value]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
