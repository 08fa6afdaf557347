"""The gallery page: for each question its claim, what was run, the picture, what came out, and why that may be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from shared import webpage

from normsmith.report import words
from normsmith.report.forest import forest_figures
from normsmith.report.page import template_text
from normsmith.report.plots import Figure, chart_figure
from normsmith.report.strips import strip_figure
from normsmith.studies.question import Question, every_question
from normsmith.studies.results import Chart, Effect, StripChart, Table, Verdict

PARTS = Path(__file__).parent
REMARKS = PARTS / "remarks"
AGAINST = (Verdict.NOT_HERE, Verdict.REVERSED)
"""Verdicts that a claim did not hold."""

_CHARTS: TypeAdapter[Chart | StripChart] = TypeAdapter(Chart | StripChart)
Run = dict[str, Any]


@dataclass(frozen=True)
class Exhibit:
    """What one run answered to a question.

    Attributes:
        id: of its place on the page, and the beginning of those of its figures.
        run: where it comes from.
        effects: the hypotheses, judged ones and others, with their verdicts.
        figures: by their place on the page.
        arms: what was compared, a row for each arm.
        remarks: why it may be so, as far as the verdicts are those which a remark was written for.
        notes: what the study says of how it was done.
        trials: how many there were, if that is kept.
    """

    id: str
    run: Run
    effects: Sequence[Effect]
    figures: dict[str, Figure]
    arms: Table
    remarks: Sequence[str]
    notes: Sequence[str]
    trials: int | None

    @property
    def tally(self) -> list[tuple[Verdict, int]]:
        """How many judged hypotheses have each verdict."""
        return tally(self.effects)

    @property
    def against(self) -> list[Effect]:
        """The hypotheses that did not hold."""
        return [effect for effect in self.effects if effect.verdict in AGAINST]


@dataclass(frozen=True)
class Section:
    """A question, and what each run that was asked it answered; none if no run answered it yet."""

    question: Question
    exhibits: Sequence[Exhibit]


def rendered(runs: Sequence[Run]) -> str:
    """The whole page as one HTML document.

    Args:
        runs: as `scripts/shared/answers.py` reads them.
    """
    sections = [
        Section(question, [exhibit(run, answer) for run, answer in answers_to(question.name, runs)])
        for question in every_question().values()
    ]
    effects = [effect for section in sections for each in section.exhibits for effect in each.effects]
    return webpage.rendered(
        PARTS,
        template_text("report.js"),
        runs=runs,
        sections=sections,
        tally=tally(effects),
        words=words,
    )


def answers_to(question: str, runs: Iterable[Run]) -> list[tuple[Run, dict[str, Any]]]:
    """The runs that answered a question, each with its answer."""
    return [(run, answer) for run in runs for answer in run["answers"] if answer["question"] == question]


def exhibit(run: Run, answer: dict[str, Any]) -> Exhibit:
    """What a run answered to a question, ready to be shown."""
    effects = [Effect.model_validate(each) for each in answer["effects"]]
    place = f"{answer['question']}-{run['task']}"
    drawn = forest_figures(effects)
    if "chart" in answer:
        drawn.append(_drawn(_CHARTS.validate_python(answer["chart"])))
    return Exhibit(
        id=place,
        run=run,
        effects=effects,
        figures={f"{place}-f{i}": figure for i, figure in enumerate(drawn, start=1)},
        arms=Table.model_validate(answer["arms"]),
        remarks=remarks(answer["question"], run["task"], effects),
        notes=answer.get("notes", ()),
        trials=answer.get("trials"),
    )


def remarks(question: str, task: str, effects: Iterable[Effect]) -> list[str]:
    """What was written on a question and a task, as far as the verdicts are those that it was written for.

    A remark says why a hypothesis may have come out as it did; where it came out otherwise, it would be wrong.
    """
    verdicts = {effect.name: effect.verdict for effect in effects}
    return [
        remark["text"]
        for remark in written_remarks(question)
        if task == remark["task"] and verdicts.get(remark["hypothesis"]) in remark["expects"]
    ]


def written_remarks(question: str) -> list[dict[str, Any]]:
    """All that was written on a question: `task`, `hypothesis`, the verdicts that it `expects`, and the `text`."""
    path = REMARKS / f"{question}.json"
    written: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return written


def tally(effects: Iterable[Effect]) -> list[tuple[Verdict, int]]:
    """How many of these hypotheses have each verdict, those that are not judged left out."""
    counted = Counter(effect.verdict for effect in effects)
    return [
        (verdict, counted[verdict])
        for verdict in Verdict
        if counted[verdict] and verdict is not Verdict.NOT_JUDGED
    ]


def _drawn(chart: Chart | StripChart) -> Figure:
    return strip_figure(chart) if isinstance(chart, StripChart) else chart_figure(chart)
