#!/usr/bin/env python3
"""Ask questions whose answer is known: two arms that are the same, tuned and trained independently (A/A).

    make calibrate                            minutes: every trial runs, and is kept in .calibrate/study.db
    python scripts/calibrate.py --write       only write the page, from docs/calibration.json as it is

Each question compares an arm with itself, in another stream of random numbers: its own initial weights, batch order,
tuning and all. So the median effect is zero, "holds" and "reversed" are false, and 95 % intervals should cover zero in
95 % of the studies at least. The pool of paired effects is cut into disjoint studies of ten seeds, and regrouped into
400 more, each pair either way round, since neither arm comes first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from loky import cpu_count

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from figures import between, where  # noqa: E402

from normsmith.studies import Settings, Store, run_study  # noqa: E402
from normsmith.studies._inference import ALPHA, weigh  # noqa: E402
from normsmith.studies._pairs import Effects  # noqa: E402
from normsmith.studies.arms import Arm  # noqa: E402
from normsmith.studies.lab import Lab, Measure  # noqa: E402
from normsmith.studies.question import Findings, Question  # noqa: E402
from normsmith.studies.statistics import Hypothesis  # noqa: E402
from normsmith.studies.tuning import Requests, together  # noqa: E402
from normsmith.studies.versions import versions  # noqa: E402

KEPT, PAGE, FOLDER = (
    ROOT / "docs/calibration.json",
    ROOT / "docs/explanation/fairness.md",
    ROOT / ".calibrate",
)
BEGIN, END = "<!-- from docs/calibration.json: make calibrate -->", "<!-- end of the calibration -->"
SEEDS, POOL, REGROUPED = 10, 80, 400
"""Seeds of a study, seeds of the pool, and studies that are regrouped from it."""

SLIGHT = 1e-9
"""A margin of nearly nothing, for the strictest test: beyond it lies every effect that is not zero."""


def same(
    name: str, arm: Callable[[Lab], Arm], of: Callable[[Lab], tuple[Measure, Measure]], **claim: Any
) -> Question:
    """A question that compares an arm with itself; `of` gives the measures that are tuned on, and compared."""

    def ask(lab: Lab) -> Requests[Findings]:
        labs = {stream: replace(lab, stream=stream) for stream in (0, 1)}  # they share their outcomes
        tuned_on, compared = of(lab)
        tuned = yield from together(
            {stream: each.tune([arm(lab)], tuned_on, lab.shortfall) for stream, each in labs.items()}
        )
        one, other = (labs[stream].series(tuned[stream][arm(lab)], compared) for stream in labs)
        hypothesis = Hypothesis(name, "they differ", "one", "other", **claim)
        return Findings(headline="", effects=lab.judge([lab.pairs(hypothesis, one, other)]))

    return Question(name, name, "they differ", "", ask, "")


def steps(lab: Lab) -> tuple[Measure, Measure]:
    return lab.steps_to(0.95, "validation"), lab.steps_to(0.95)


def points(lab: Lab) -> tuple[Measure, Measure]:
    return lab.shortfall, lab.points


DIFFERENCE = {"unit": "points", "scale": "difference", "better": "higher"}
QUESTIONS = (
    same("fewer-steps", lambda lab: lab.normalized("relu"), steps, unit="steps", scale="ratio", better="lower",
         margin=-float(np.log(0.67))),
    same("saturation", lambda lab: lab.network("sigmoid"), points, **DIFFERENCE, margin=19.9),
    same("small-batches", lambda lab: lab.normalized(None, "batch", "before", ghost_batch_size=2), points,
         **DIFFERENCE, margin=2.0),
)  # fmt: skip
"""Questions of the demo, each with one arm: with a norm, without, and one whose result varies much between seeds."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the page only")
    if not parser.parse_args().write:
        KEPT.write_text(json.dumps(calibrated(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(
        with_table(PAGE.read_text("utf-8"), json.loads(KEPT.read_text("utf-8"))), encoding="utf-8"
    )


def calibrated() -> dict[str, Any]:
    """Run the pool, and count what studies of it say."""
    FOLDER.mkdir(exist_ok=True)
    with Store(f"sqlite:///{FOLDER / 'study.db'}") as store:
        result = run_study("digits-mlp", QUESTIONS, store, Settings(seeds=POOL, jobs=cpu_count()))
    return {
        "task": result.task,
        "trials": result.trials_new + result.trials_reused,
        "versions": dict(versions()),
        **where(),
        "questions": {answer.question: counted(answer.effects[0].effects) for answer in result.answers},
    }


def counted(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """How often disjoint and regrouped studies say something false, and how often their intervals cover zero."""
    ends = np.array(pairs, dtype=float)
    groups = {
        "disjoint": np.arange(len(ends) // SEEDS * SEEDS).reshape(-1, SEEDS),
        "regrouped": np.array([_drawn(len(ends), study) for study in range(REGROUPED)]),
    }
    return {
        "effects": ends.tolist(),
        **{name: _said(ends, rows, regrouped=name == "regrouped") for name, rows in groups.items()},
    }


def _drawn(pool: int, study: int) -> Any:
    return np.random.default_rng(study).permutation(pool)[:SEEDS]


def _said(ends: Any, rows: Any, *, regrouped: bool) -> dict[str, int]:
    """Of how many studies; in how many a slight effect was called, either way; in how many the interval covers zero."""
    false = covering = 0
    for study, row in enumerate(rows):
        low, high = ends[row].T
        if regrouped:
            turned = np.random.default_rng(REGROUPED + study).random(SEEDS) < 0.5
            low, high = np.where(turned, -high, low), np.where(turned, -low, high)
        evidence = weigh(Effects(low, high, SLIGHT, equivalence=False))
        false += min(evidence.p_holds, evidence.p_reversed) <= ALPHA
        covering += evidence.interval.low <= 0 <= evidence.interval.high
    return {"studies": len(rows), "false": int(false), "covering": int(covering)}


def with_table(page: str, kept: dict[str, Any]) -> str:
    """The page on fairness with what came out."""
    rows = [
        "| question | studies | of other seeds each: false, covering | regrouped | false | covering |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in kept["questions"].items():
        alone, again = each["disjoint"], each["regrouped"]
        share = partial(_share, of=again["studies"])
        rows.append(
            f"| `{name}` | {alone['studies']} | {alone['false']}, {alone['covering']} | {again['studies']} | "
            f"{share(again['false'])} | {share(again['covering'])} |"
        )
    facts = (
        f"({kept['trials']:,} trials on {kept['machine']}, {kept['instruction_set']}, torch "
        f"{kept['versions']['torch']}, commit {kept['commit']})"
    )
    return between(page, f"Studies of {SEEDS} seeds {facts}:\n\n" + "\n".join(rows), BEGIN, END)


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.1f} %"


if __name__ == "__main__":
    main()
