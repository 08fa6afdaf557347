#!/usr/bin/env python3
"""Ask the demo's questions by other backends and a narrower instruction set, and print the verdicts that differ.

    make machines                                            the demo, once for each: tens of minutes
    python scripts/machines.py -q placement --seeds 2        these words go to `normsmith study`

Trials and results are kept in .machines, one store for each, so a run that was stopped goes on where it was. The exit
status is 1 where two of them say something else of a hypothesis, and neither says "inconclusive".
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from normsmith.studies import StudyResult, notation
from normsmith.studies.results import Effect, Verdict

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / ".machines"
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
    KEPT.mkdir(exist_ok=True)
    results = {name: asked(name, sys.argv[1:]) for name in ENVIRONMENTS}
    for name, result in results.items():
        computed = [result.versions[each] for each in ("backend", "instruction set")]
        print(f"{name}: {', '.join(computed)}")
    found = {name: effects(result) for name, result in results.items()}
    if differing(found):
        print(f"\n{table(found)}")
    print(f"\n{conclusion(found)}")
    return 1 if contradictions(found) else 0


def asked(name: str, words: list[str]) -> StudyResult:
    """What `normsmith study` answers in one of the environments."""
    print(f"normsmith: {name}", file=sys.stderr)
    command = [sys.executable, "-m", "normsmith", "study", "--no-report", "--format", "json", *words]
    command += ["--store", f"sqlite:///{KEPT / f'{name}.db'}"]
    environment = {**os.environ, **ENVIRONMENTS[name]}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode not in (0, 1):  # 1: a trial failed, which its result says
        raise SystemExit(f"expected an answer of the study {name!r}, got exit status {done.returncode}")
    (KEPT / f"{name}.json").write_text(done.stdout, encoding="utf-8")
    return StudyResult.model_validate_json(done.stdout)


def effects(result: StudyResult) -> dict[Key, Effect]:
    return {(answer.question, effect.name): effect for answer in result.answers for effect in answer.effects}


def verdicts(found: dict[str, dict[Key, Effect]], key: Key) -> dict[str, Verdict]:
    """What each environment says of a hypothesis, where it was put to the test."""
    return {name: of[key].verdict for name, of in found.items() if key in of}


def differing(found: dict[str, dict[Key, Effect]]) -> list[Key]:
    """The hypotheses of which not all say the same, in the order of the first."""
    keys = dict.fromkeys(key for of in found.values() for key in of)
    return [key for key in keys if len(set(verdicts(found, key).values())) > 1]


def contradictions(found: dict[str, dict[Key, Effect]]) -> list[Key]:
    """Those of which two say something else, and neither that it is inconclusive."""
    open_ = {Verdict.INCONCLUSIVE, Verdict.NOT_JUDGED}
    return [key for key in differing(found) if len({*verdicts(found, key).values()} - open_) > 1]


def table(found: dict[str, dict[Key, Effect]]) -> str:
    """The hypotheses that differ: verdict, estimate and interval in each environment."""
    rows = [f"| question | hypothesis | {' | '.join(found)} |", f"|{'---|' * (len(found) + 2)}"]
    for question, name in differing(found):
        cells = [cell(of.get((question, name))) for of in found.values()]
        rows.append(f"| `{question}` | {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def cell(effect: Effect | None) -> str:
    return "-" if effect is None else f"{effect.verdict.value}, {notation.estimate_and_interval(effect)}"


def conclusion(found: dict[str, dict[Key, Effect]]) -> str:
    """How many hypotheses there are, and of how many not all say the same."""
    keys = {key for of in found.values() for key in of}
    different, against = differing(found), contradictions(found)
    return (
        f"Of {len(keys)} hypotheses, {len(found)} environments say the same of {len(keys) - len(different)}; of "
        f"{len(different) - len(against)}, some decide what others leave open; of {len(against)}, they contradict "
        "each other."
    )


if __name__ == "__main__":
    sys.exit(main())
