#!/usr/bin/env python3
"""Run `normsmith check` over the corpus of seeded faults, keep what came out in docs/corpus.json, and write the table.

    make corpus                                       tens of minutes: every case is built and checked
    python scripts/corpus.py --only configuration/momentum setup/eval_leak     some files of cases, printed alone
    python scripts/corpus.py --write                  only write the page, from docs/corpus.json as it is

Counted are the rules that exist. torch-audit and pytest-torch are asked the same where they are installed, and counted
on the rules that they have a counterpart of.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import runpy
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

KEPT, PAGE = ROOT / "docs/corpus.json", ROOT / "docs/explanation/checks-measured.md"
BEGIN, END = "<!-- from docs/corpus.json: make corpus -->", "<!-- end of the figures -->"
FAMILIES = {
    "NS1": "structure",
    "NS2": "configuration",
    "NS3": "training set-up",
    "NS4": "data and statistics",
    "NS5": "signal",
}

Tool = Callable[[Any, Any], list[tuple[str, str]]]
"""Asks a tool about (case, given): what it says, as codes of our rules with severities."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the page only")
    parser.add_argument("--only", nargs="+", metavar="FILE", help="files of cases; nothing is kept")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="processes; a file of cases is one's"
    )
    arguments = parser.parse_args()
    if arguments.only:
        print(report(measured(arguments.only, arguments.jobs)))
        return
    if not arguments.write:
        KEPT.write_text(
            json.dumps(measured(None, arguments.jobs), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    print(report(kept))
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")


def measured(files: list[str] | None, jobs: int) -> dict[str, Any]:
    """What each tool says of each case, judged by the labels, with where that was measured."""
    from tests.corpus.cases import by_file

    from normsmith.checks import every_rule

    every = by_file()
    if unknown := sorted(set(files or ()) - every.keys()):
        raise SystemExit(
            f"no file of cases is called {', '.join(unknown)}: expected some of {', '.join(every)}"
        )
    existing, tools = frozenset(every_rule()), every_tool()
    started = time.perf_counter()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as processes:
        asked = list(processes.map(judged_file, files or every))
    where = runpy.run_path(str(ROOT / "scripts/figures.py"))["where"]
    return {
        "rules": sorted(existing),
        "tools": {name: sorted(codes) for name, (_, codes) in tools.items()},
        "seconds": round(time.perf_counter() - started),
        **where(),
        "cases": [row for rows in asked for row in rows],
    }


def every_tool() -> dict[str, tuple[Tool, frozenset[str]]]:
    """Ours with all of its rules, and the others that are installed."""
    from normsmith.checks import every_rule

    return {"normsmith check": (ask_normsmith, frozenset(every_rule())), **other_tools()}


def judged_file(file: str) -> list[dict[str, Any]]:
    """What each tool says of the cases of a file; a process has one thread, since it shares the machine."""
    import torch
    from tests.corpus.cases import by_file

    torch.set_num_threads(1)
    tools, rows = every_tool(), []
    for case in by_file()[file]:
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"file": file, "case": case.name, **judged(case, Path(folder), tools)})
        print(f"{file} {case.name}: {in_short(rows[-1])}", file=sys.stderr, flush=True)
    return rows


def judged(case: Any, folder: Path, tools: dict[str, tuple[Tool, frozenset[str]]]) -> dict[str, Any]:
    """Hits, misses and false alarms of each tool, among the rules that it has; a tool that raises has said nothing."""
    from tests.corpus.case import judge

    row: dict[str, Any] = {}
    for name, (ask, codes) in tools.items():
        started, failed = time.perf_counter(), ""
        try:
            said = ask(case, case.build(folder))
        except Exception:  # noqa: BLE001  the case counts as missed, and the table says so
            said, failed = [], traceback.format_exc(limit=-1).strip().splitlines()[-1]
        known = replace(case, must=case.must & codes, as_information=case.as_information & codes)
        hits, misses, alarms = judge(known, [(code, severity) for code, severity in said if code in codes])
        row[name] = {
            "hits": sorted(hits),
            "misses": sorted(misses),
            "alarms": sorted(alarms),
            "seconds": round(time.perf_counter() - started, 2),
            **({"failed": failed} if failed else {}),
        }
    return row


def ask_normsmith(case: Any, given: Any) -> list[tuple[str, str]]:
    """What `normsmith.check` finds at its deepest level, with all that the case hands over."""
    import normsmith

    findings = normsmith.check(
        given.model,
        given.batches,
        loss=given.loss,
        optimizer=None if given.optimizer is None else given.optimizer(given.model),
        validate=given.validate,
        training_step=given.training_step,
        domain=given.domain,
        ema=given.ema,
        checkpoint=given.checkpoint,
        rank_checkpoints=given.rank_checkpoints or None,
        level="deep",
    )
    broken = [row for row in findings.not_run if row.reason.startswith("the rule raised")]
    for row in broken:
        print(f"  {case.name}: {row.code} raised: {row.reason}", file=sys.stderr)
    return [(finding.code, finding.severity) for finding in findings]


def other_tools() -> dict[str, tuple[Tool, frozenset[str]]]:
    """The other tools that are installed here."""
    from tests.corpus import rivals

    result: dict[str, tuple[Tool, frozenset[str]]] = rivals.installed()
    return result


def in_short(row: dict[str, Any]) -> str:
    ours = row["normsmith check"]
    words = [f"{kind} {', '.join(ours[kind])}" for kind in ("hits", "misses", "alarms") if ours[kind]]
    return "; ".join([*words, *([ours["failed"]] if "failed" in ours else [])]) or "silent"


def counted(rows: Iterable[dict[str, Any]], tool: str, prefix: str = "") -> tuple[int, int, int]:
    """How many hits, misses and false alarms there are of the rules whose codes begin like that."""
    kinds = ("hits", "misses", "alarms")
    every = list(rows)
    hits, misses, alarms = (
        sum(code.startswith(prefix) for row in every for code in row[tool][kind]) for kind in kinds
    )
    return hits, misses, alarms


def share(successes: int, total: int) -> str:
    """A share in per cent, with its exact (Clopper–Pearson) interval of 95 %.

    >>> share(19, 20)
    '95.0 % (75.1 to 99.9)'
    """
    if total == 0:
        return "–"
    low, high = binomtest(successes, total).proportion_ci(0.95, method="exact")
    return f"{100 * successes / total:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def report(kept: dict[str, Any]) -> str:
    """The tables: each tool over all, ours by family, what was missed and where it was a false alarm."""
    head = ["faults", "found", "false alarms", "precision (95 % interval)", "recall (95 % interval)"]
    lines = [facts(kept), "", *header(["tool", "rules", *head])]
    for tool, codes in kept["tools"].items():
        lines.append(line([f"`{tool}`", str(len(codes)), *figures(counted(kept["cases"], tool))]))
    lines += ["", *header(["family", "rules", *head])]
    for prefix, name in FAMILIES.items():
        rules = sum(code.startswith(prefix) for code in kept["rules"])
        lines.append(line([name, str(rules), *figures(counted(kept["cases"], "normsmith check", prefix))]))
    lines += ["", healthy(kept)]
    for kind, words in (("misses", "Missed"), ("alarms", "False alarms")):
        of = [
            f"{row['case']} ({', '.join(c)})" for row in kept["cases"] if (c := row["normsmith check"][kind])
        ]
        lines += ["", f"{words}: {'; '.join(of) or 'none'}."]
    return "\n".join(lines)


def figures(counts: tuple[int, int, int]) -> list[str]:
    hits, misses, alarms = counts
    return [
        str(hits + misses),
        str(hits),
        str(alarms),
        share(hits, hits + alarms),
        share(hits, hits + misses),
    ]


def healthy(kept: dict[str, Any]) -> str:
    """On how many of the known-good networks each tool warns."""
    good = [row for row in kept["cases"] if row["file"].startswith("healthy/")]
    said = [f"`{tool}` {sum(bool(row[tool]['alarms']) for row in good)}" for tool in kept["tools"]]
    return f"Known-good networks with a false alarm, of {len(good)}: {', '.join(said)}."


def facts(kept: dict[str, Any]) -> str:
    return (
        f"{len(kept['cases'])} cases, {len(kept['rules'])} rules, {kept['seconds']:,} s on {kept['machine']}, "
        f"commit {kept['commit']}."
    )


def header(names: list[str]) -> list[str]:
    return [line(names), f"|{'---|' * len(names)}"]


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def with_table(page: str, kept: dict[str, Any]) -> str:
    """The page with the tables between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"expected the lines {BEGIN!r} and {END!r} in {PAGE.name}")
    return f"{before}{BEGIN}\n{report(kept)}\n\n{END}{after}"


if __name__ == "__main__":
    main()
