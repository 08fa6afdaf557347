"""The gallery page: a table of the claims with what was found, then each question with its pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from shared import webpage
from shared.claims import CLAIMS, MAIN, Claim, Line, lines
from shared.facts import fixed_target, hinders, near_target, out_of_reach, told
from shared.findings import CEILING, IMPOSSIBLE, Finding, findings_in
from shared.seen import seen

from normsmith._text import exact, number
from normsmith.report.forest import forest_figures
from normsmith.report.page import template_text
from normsmith.report.plots import Figure, chart_figure
from normsmith.report.strips import strip_figure
from normsmith.studies.question import Question, every_question
from normsmith.studies.results import Chart, Effect, StripChart, Table, Verdict
from normsmith.studies.trial import evaluation_steps
from normsmith.tasks import digits_mlp, load
from normsmith.tasks.datasets import length

PARTS = Path(__file__).parent
REMARKS = PARTS / "remarks"
SMALL = ("wine", "breast-cancer")
"""Tasks with so few test samples that one of them weighs about a point of accuracy or more."""
AGAINST = (Verdict.NOT_HERE, Verdict.REVERSED)
"""Verdicts that a claim did not hold."""
ONE_PICTURE = ("shifted-inputs",)
"""Questions whose first chart shows the paired effects once more."""
TUNED_BY_STEPS = ("fewer-steps", "placement", "covariate-shift", "recurrent-norms", "whitening")
"""Questions whose arms are tuned for the fewest steps; those of the others are for what they end at."""

_CHARTS: TypeAdapter[Chart | StripChart] = TypeAdapter(Chart | StripChart)
Run = dict[str, Any]


@dataclass(frozen=True)
class Exhibit:
    """What one run answered to a question.

    Attributes:
        id: of its place on the page, and the beginning of those of its figures.
        run: where it comes from.
        findings: the hypotheses, judged ones and others, with what was found on each.
        figures: by their place on the page.
        arms: what was compared, a row for each arm.
        facts: what the arms say that no hypothesis asks.
        remarks: why it may be so, as far as the verdicts are those which a remark was written for.
        notes: what the study says of how it was done.
        measured: how often accuracy is measured, and what one test sample weighs.
        trials: how many there were, if that is kept.
    """

    id: str
    run: Run
    findings: Sequence[Finding]
    figures: dict[str, Figure]
    arms: Table
    facts: Sequence[str]
    remarks: Sequence[str]
    notes: Sequence[str]
    measured: Sequence[str]
    trials: int | None

    @property
    def against(self) -> list[Finding]:
        """The hypotheses that did not hold, though they could have."""
        return [each for each in self.findings if each.shown in AGAINST]

    @property
    def tuned_for(self) -> str:
        """What the seeds chose learning rates and initial weights for."""
        steps = self.id.removesuffix(f"-{self.run['task']}") in TUNED_BY_STEPS
        return "the fewest steps to the target" if steps else "the best end"


@dataclass(frozen=True)
class Section:
    """A question, its short name, and what each run that was asked it answered; none if no run answered it yet."""

    question: Question
    title: str
    exhibits: Sequence[Exhibit]


@dataclass(frozen=True)
class Row:
    """A claim, and the sentences that answer it."""

    claim: Claim
    lines: Sequence[Line]


def rendered(runs: Sequence[Run]) -> str:
    """The whole page as one HTML document.

    Args:
        runs: as `scripts/shared/answers.py` reads them.
    """
    questions = every_question()
    titles = {claim.question: claim.title for claim in reversed(CLAIMS)}
    in_order = dict.fromkeys([*(claim.question for claim in CLAIMS), *questions])
    sections = [
        Section(
            questions[name],
            titles.get(name, questions[name].title),
            [exhibit(run, answer) for run, answer in answers_to(name, runs)],
        )
        for name in in_order
    ]
    script = template_text("report.js") + (PARTS / "page.js").read_text(encoding="utf-8")
    return webpage.rendered(
        PARTS,
        script,
        runs=runs,
        sections=sections,
        claims=[Row(claim, lines(claim, runs)) for claim in CLAIMS],
        network=network(runs),
        impossible=IMPOSSIBLE,
        every=first_measurements(runs),
        weights={run["task"]: one_sample(run["task"]) for run in runs if run["task"] in SMALL},
        verdicts=Verdict,
        seen=seen,
    )


def network(runs: Iterable[Run]) -> dict[str, str]:
    """What the main network is, and how it was trained."""
    task = digits_mlp()
    kept: dict[str, str] = next(
        (run["task_facts"] for run in runs if run["task"] == MAIN and run["task_facts"]), {}
    )
    weight, tests = next(task.model().parameters()), length(task.test)
    return {
        "description": task.description,
        "training": f"{length(task.train):,}",
        "test": f"{tests:,}",
        "batch": str(task.batch_size),
        "momentum": exact(task.optimizer([weight], 1.0).defaults["momentum"]),
        "steps": kept.get("steps", str(task.steps)),
        "target": kept.get("target", ""),
        "image": number(100 / tests),
    }


def answers_to(question: str, runs: Iterable[Run]) -> list[tuple[Run, dict[str, Any]]]:
    """The runs that answered a question, each with its answer."""
    return [(run, answer) for run in runs for answer in run["answers"] if answer["question"] == question]


def exhibit(run: Run, answer: dict[str, Any]) -> Exhibit:
    """What a run answered to a question, ready to be shown."""
    effects = [Effect.model_validate(each) for each in answer["effects"]]
    question, notes = answer["question"], answer.get("notes", ())
    place, arms = f"{question}-{run['task']}", Table.model_validate(answer["arms"])
    findings = findings_in(answer, run)
    shown = [each.effect.model_copy(update={"verdict": each.shown}) for each in findings]
    drawn = forest_figures(shown, {each.effect.name: each.verdict for each in findings})
    if "chart" in answer and question not in ONE_PICTURE:
        drawn.append(_drawn(_CHARTS.validate_python(answer["chart"]), run))
    return Exhibit(
        id=place,
        run=run,
        findings=findings,
        figures={f"{place}-f{i}": figure for i, figure in enumerate(drawn, start=1)},
        arms=arms,
        facts=[
            *(text for _, text in told(question, answer, run)),
            *filter(None, [out_of_reach(answer)]),
            *near_target(answer.get("chart", {}), fixed_target(run)),
        ],
        remarks=remarks(question, run["task"], effects),
        notes=[note for note in notes if not (hinders(note) or CEILING.match(note))],  # said by the findings
        measured=measured(run, steps=question in TUNED_BY_STEPS),
        trials=answer.get("trials"),
    )


def measured(run: Run, *, steps: bool) -> list[str]:
    """How often the metric is measured where steps are compared, and what one sample of a small test set weighs."""
    said = [f"measured after every {first} steps at first" for first in _first_measured(run) if steps]
    if run["task"] in SMALL:
        said.append(f"one test sample is {one_sample(run['task'])} points")
    return said


def one_sample(task: str) -> str:
    """How many points of accuracy one test sample of a task is."""
    return number(100 / length(load(task).test))


def first_measurements(runs: Iterable[Run]) -> dict[int, list[str]]:
    """By the number of steps after which trials are measured first: the tasks of which that is so."""
    tasks: dict[int, list[str]] = {}
    for run in runs:
        for first in _first_measured(run):
            tasks.setdefault(first, []).append(run["task"])
    return tasks


def _first_measured(run: Run) -> tuple[int, ...]:
    """After how many steps a trial is measured first, if that is known."""
    steps = run.get("task_facts", {}).get("steps", "")
    return evaluation_steps(int(steps))[:1] if steps.isdigit() else ()


def remarks(question: str, task: str, effects: Iterable[Effect]) -> list[str]:
    """What was written on a question and a task, as far as the verdicts are those that it was written for.

    A remark says why a hypothesis may have come out as it did; where it came out otherwise, it would be wrong.
    """
    verdicts = {effect.name: effect.verdict for effect in effects}
    fitting = (
        remark["text"]
        for remark in written_remarks(question)
        if task == remark["task"] and verdicts.get(remark["hypothesis"]) in remark["expects"]
    )
    return list(dict.fromkeys(fitting))  # one may be on several hypotheses


def written_remarks(question: str) -> list[dict[str, Any]]:
    """All that was written on a question: `task`, `hypothesis`, the verdicts that it `expects`, and the `text`."""
    path = REMARKS / f"{question}.json"
    written: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return written


def _drawn(chart: Chart | StripChart, run: Run) -> Figure:
    """The chart; where it is of accuracy, with the target that the task has."""
    if isinstance(chart, StripChart):
        return strip_figure(chart)
    accuracy = chart.y_title.endswith("accuracy")
    target = fixed_target(run) if accuracy else ""
    return chart_figure(chart, shares=accuracy, target=float(target) if target else None)
