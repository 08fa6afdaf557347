#!/usr/bin/env python3
"""Ask the demo's questions by other backends and a narrower instruction set, and print the verdicts that differ.

    make machines                                            the demo, once for each: tens of minutes
    python scripts/machines.py -q placement --seeds 2        these words go to `normsmith study`

Trials and results are kept in .machines, one store for each, so a run that was stopped goes on where it was. What the
demo says is kept in docs/machines.json, from which a page's table is written (--write writes it alone). The exit
status is 1 where two of them say something else of a hypothesis, and neither says "inconclusive".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from figures import between, where  # noqa: E402

from normsmith.studies import StudyResult, notation  # noqa: E402
from normsmith.studies.results import Effect, Verdict  # noqa: E402
from normsmith.studies.verdicts import contradictions, differing  # noqa: E402

STORES, KEPT = ROOT / ".machines", ROOT / "docs/machines.json"
PAGE = ROOT / "docs/explanation/fairness.md"
BEGIN, END = "<!-- from docs/machines.json: make machines -->", "<!-- end of the machines -->"
ENVIRONMENTS = {
    "numba": {"NORMSMITH_BACKEND": "numba"},
    "reference": {"NORMSMITH_BACKEND": "reference"},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "NUMBA_CPU_NAME": "haswell",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
}
"""What each run is called, and the variables that it is given."""

Key = tuple[str, str]
"""A question and the name of one of its hypotheses."""


def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return 0
    words = sys.argv[1:]
    if words != ["--write"]:
        STORES.mkdir(exist_ok=True)
        results = {name: asked(name, words) for name in ENVIRONMENTS}
        kept = as_kept(results)
        print(report(kept))
        if words:
            return bool(contradictions(verdicts_of(kept)))
        KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")
    return bool(contradictions(verdicts_of(kept)))


def asked(name: str, words: list[str]) -> StudyResult:
    """What `normsmith study` answers in one of the environments."""
    print(f"normsmith: {name}", file=sys.stderr)
    command = [sys.executable, "-m", "normsmith", "study", "--no-report", "--format", "json", *words]
    command += ["--store", f"sqlite:///{STORES / f'{name}.db'}"]
    environment = {**os.environ, **ENVIRONMENTS[name]}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode not in (0, 1):  # 1: a trial failed, which its result says
        raise SystemExit(f"expected an answer of the study {name!r}, got exit status {done.returncode}")
    (STORES / f"{name}.json").write_text(done.stdout, encoding="utf-8")
    return StudyResult.model_validate_json(done.stdout)


def as_kept(results: dict[str, StudyResult]) -> dict[str, Any]:
    """What each environment says of each hypothesis, as plain data, and where that was."""
    rows: dict[Key, dict[str, Any]] = {}
    for name, result in results.items():
        for answer in result.answers:
            for effect in answer.effects:
                rows.setdefault((answer.question, effect.name), {})[name] = said(effect)
    return {
        "environments": {
            name: {each: result.versions[each] for each in ("backend", "instruction set")}
            for name, result in results.items()
        },
        **where(),
        "hypotheses": [
            {"question": question, "name": name, "said": by} for (question, name), by in rows.items()
        ],
    }


def said(effect: Effect) -> dict[str, str]:
    """A verdict and its estimate, in words."""
    return {"verdict": effect.verdict.value, "estimate": notation.estimate_and_interval(effect)}


def verdicts_of(kept: dict[str, Any]) -> dict[Key, dict[str, Verdict]]:
    """What each environment says of a hypothesis, where it was put to the test there."""
    return {
        (row["question"], row["name"]): {name: Verdict(each["verdict"]) for name, each in row["said"].items()}
        for row in kept["hypotheses"]
    }


def with_table(page: str, kept: dict[str, Any]) -> str:
    """The page with what `make machines` found between its marks."""
    at = f"On {kept['machine']}, commit {kept['commit']}."
    return between(page, f"{report(kept)}\n\n{at}", BEGIN, END)


def report(kept: dict[str, Any]) -> str:
    """Which environments there were, what they say of each hypothesis, and of how many they say the same."""
    environments = kept["environments"]
    lines = [f"- {name}: {each['backend']}, {each['instruction set']}" for name, each in environments.items()]
    rows = [f"| question | hypothesis | {' | '.join(environments)} |", f"|{'---|' * (len(environments) + 2)}"]
    for row in kept["hypotheses"]:
        cells = [cell(row["said"].get(name)) for name in environments]
        rows.append(f"| `{row['question']}` | {row['name']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *rows, "", conclusion(kept)])


def cell(said_: dict[str, str] | None) -> str:
    return "-" if said_ is None else f"{said_['verdict']}, {said_['estimate']}"


def conclusion(kept: dict[str, Any]) -> str:
    """How many hypotheses there are, and of how many not all say the same."""
    verdicts = verdicts_of(kept)
    different, against = differing(verdicts), contradictions(verdicts)
    return (
        f"Of {len(verdicts)} hypotheses, {len(kept['environments'])} environments say the same of "
        f"{len(verdicts) - len(different)}; of {len(different) - len(against)}, some decide what others leave open; of "
        f"{len(against)}, they contradict each other."
    )


if __name__ == "__main__":
    sys.exit(main())
