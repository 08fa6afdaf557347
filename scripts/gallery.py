#!/usr/bin/env python3
"""Put the questions to the embedded tasks, keep the answers in docs/gallery.json, and write the pages that show them.

    make gallery                                      hours: the full profile on the digits, then the other tasks
    python scripts/gallery.py wine digits-cnn         these tasks anew, the others as they are kept
    python scripts/gallery.py wine --seeds 2          further words go to `normsmith study`; .gallery/try.html shows it
    python scripts/gallery.py --write                 only write the pages, from docs/gallery.json as it is

Trials are kept in .gallery, one store for each task, so a run that was stopped goes on where it was. Written are
docs/gallery.html and the verdicts of docs/claims.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from exhibits import page  # noqa: E402
from figures import CLAIMS_PAGE, where  # noqa: E402
from shared.answers import GALLERY, Run, kept_runs, with_verdicts  # noqa: E402  beside this file

from normsmith.studies import Store, StudyResult  # noqa: E402
from normsmith.studies.named_trials import named_trials  # noqa: E402

STORES, PAGE = ROOT / ".gallery", ROOT / "docs/gallery.html"


@dataclass(frozen=True)
class Asked:
    """What a task is asked, at which profile, and why that; without questions all that apply.

    `of` is the task for `normsmith study`, where that is another word than its name.
    """

    task: str
    why: str
    questions: tuple[str, ...] = ()
    profile: str = "quick"
    of: str = ""


ASKED = (
    Asked("digits-mlp", "All questions that apply to it.", profile="full"),
    Asked(
        "digits-cnn",
        "What positions may change: statistics over them are less noisy, and all weights are shared.",
        ("fewer-steps", "placement", "small-batches", "saturation"),
    ),
    Asked(
        "digits-cnn-with-norms",
        "The same convolutions as libraries write them, with batch norms before their activations: what those do.",
        ("own-norms",),
        of="scripts/exhibits/normed.py:task",
    ),
    Asked(
        "digits-mlp-in-two-styles",
        "The same network where half of its images are inverted: whether each style should have norms of its own.",
        ("domain-norms",),
        profile="full",
        of="digits-mlp",
    ),
    Asked(
        "digits-rnn",
        "The question about recurrent networks.",
        ("recurrent-norms",),
    ),
    Asked(
        "shapes",
        "Images of more than 8×8 pixels: speed, and inputs from elsewhere.",
        ("fewer-steps", "shifted-inputs"),
    ),
    Asked(
        "wine",
        "A table in its own units: speed, and whether a norm replaces a scaler.",
        ("fewer-steps", "data-preparation"),
        profile="full",
    ),
    Asked(
        "breast-cancer",
        "A table in its own units, with two classes.",
        ("fewer-steps", "data-preparation"),
        profile="full",
    ),
    Asked(
        "diabetes",
        "A regression.",
        ("fewer-steps", "learning-rates"),
        profile="full",
    ),
)
"""The slow tasks are asked few questions in the quick profile: a trial of them takes up to ten times as long."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="only these tasks; all by default")
    parser.add_argument("--write", action="store_true", help="write the pages only")
    arguments, words = parser.parse_known_args()
    asked = chosen(arguments.tasks)
    if words:
        runs = [answered(each, words) for each in asked]
        (STORES / "try.html").write_text(page.rendered(runs), encoding="utf-8")
        print(f"normsmith: {STORES / 'try.html'}; docs/ is as it was")
        return
    if not arguments.write:
        for each in asked:
            GALLERY.write_text(as_text(with_run(kept(), answered(each))), encoding="utf-8")
    runs = kept_runs()
    PAGE.write_text(page.rendered(runs), encoding="utf-8")
    CLAIMS_PAGE.write_text(with_verdicts(CLAIMS_PAGE.read_text(encoding="utf-8"), runs), encoding="utf-8")


def chosen(tasks: Sequence[str]) -> list[Asked]:
    """What the named tasks are asked, or all of them."""
    known = {each.task: each for each in ASKED}
    if unknown := [task for task in tasks if task not in known]:
        raise SystemExit(f"expected tasks out of {', '.join(known)}, got {unknown[0]!r}")
    return [known[task] for task in tasks] if tasks else list(ASKED)


def kept() -> list[Run]:
    """The runs as they are in docs/gallery.json."""
    runs: list[Run] = json.loads(GALLERY.read_text(encoding="utf-8"))["runs"]
    return runs


def with_run(runs: list[Run], new: Run) -> list[Run]:
    """The runs with a task's replaced, in the order in which tasks are asked."""
    by_task = {run["task"]: run for run in (*runs, new)}
    return [by_task[each.task] for each in ASKED if each.task in by_task]


def answered(asked: Asked, words: Sequence[str] = ()) -> Run:
    """What `normsmith study` answers of a task; trials that its store has are not run again."""
    print(f"normsmith: {asked.task}, {asked.profile} profile", file=sys.stderr)
    STORES.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "normsmith", "study", asked.of or asked.task, "--profile", asked.profile]
    command += [word for question in asked.questions for word in ("-q", question)]
    url = f"sqlite:///{STORES / f'{asked.task}.db'}"
    command += ["--no-report", "--format", "json", "--store", url]
    done = subprocess.run([*command, *words], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    if done.returncode not in (0, 1):  # 1: a trial failed, which its result says
        raise SystemExit(
            f"expected an answer of the study of {asked.task}, got exit status {done.returncode}"
        )
    (STORES / f"{asked.task}.json").write_text(done.stdout, encoding="utf-8")
    return as_run(asked, StudyResult.model_validate_json(done.stdout), worker_seconds(url)) | where()


def worker_seconds(url: str) -> int:
    """What the trials of a store's last study took when they ran, one after the other."""
    with Store(url) as store:
        last = max(store.studies.all(), key=lambda kept: kept.ended).number
        return round(sum(named.record.seconds for named in named_trials(store, last)))


def as_run(asked: Asked, result: StudyResult, seconds: int) -> Run:
    """What is kept of a study: for each question its effects, its first chart, which is the picture, and its arms."""
    data = json.loads(result.model_dump_json())
    answers = [
        {name: answer[name] for name in ("question", "headline", "effects", "notes", "trials")}
        | {"arms": answer["tables"][0], "chart": answer["charts"][0]}
        for answer in data["answers"]
    ]
    facts = {name: data[name] for name in ("task_facts", "profile", "skipped", "started", "versions")}
    return {
        "task": asked.task,
        "why": asked.why,
        **facts,
        "seeds": len(result.seeds),
        "trials": result.trials_new + result.trials_reused,
        "worker_seconds": seconds,
        "answers": answers,
    }


def as_text(runs: Sequence[Run]) -> str:
    """JSON with a line for each answer."""
    return '{"runs": [\n' + ",\n".join(map(_run_as_text, runs)) + "\n]}\n"


def _run_as_text(run: Run) -> str:
    facts = [f"{_compact(name)}: {_compact(value)}" for name, value in run.items() if name != "answers"]
    answers = ",\n".join(map(_compact, run["answers"]))
    return "{" + ",\n".join(facts) + ',\n"answers": [\n' + answers + "\n]}"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


if __name__ == "__main__":
    main()
