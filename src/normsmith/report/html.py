"""One offline HTML file: verdicts first, then the evidence, then how to get the same again.

The page makes no request, and its figures need no script. Its content security policy admits the one of
`templates/report.js`, by its hash. Whatever a user named is escaped, in the text and in the drawings.
"""

import os

from normsmith import _text
from normsmith.report import failures, palette, words
from normsmith.report.forest import forest_figures
from normsmith.report.overview import overview, overview_key
from normsmith.report.page import rendered
from normsmith.report.plots import Figure, chart_figure
from normsmith.report.strips import strip_figure
from normsmith.report.write import write_text
from normsmith.studies import notation
from normsmith.studies.results import Answer, Chart, StripChart, StudyResult, Verdict


def write_html(result: StudyResult, path: str | os.PathLike[str]) -> None:
    """Write the report of `result` at `path`; on any `ReportError` an old report there stays as it was."""
    write_text(render_html(result), path)


def render_html(result: StudyResult) -> str:
    """The whole report as one HTML document; the same result gives the same text, byte for byte."""
    figures = {
        f"q{i}-f{j}": figure
        for i, answer in enumerate(result.answers, start=1)
        for j, figure in enumerate(_figures(answer), start=1)
    }
    return rendered(
        "report.html.j2",
        result=result,
        figures=figures,
        overview=overview(result),
        overview_key=overview_key(result),
        failures=failures.grouped(result.failures),
        failure_summary=failures.summary(result.failures),
        nothing_finished=failures.nothing_finished(result),
        tally=_tally(result),
        facts=_facts(result),
        notation=notation,
        words=words,
        verdict_colours=palette.VERDICT_COLOURS,
    )


def _figures(answer: Answer) -> list[Figure]:
    return [*forest_figures(answer.effects), *(_drawn(chart) for chart in answer.charts)]


def _drawn(chart: Chart | StripChart) -> Figure:
    return strip_figure(chart) if isinstance(chart, StripChart) else chart_figure(chart)


def _tally(result: StudyResult) -> list[tuple[Verdict, int]]:
    verdicts = [effect.verdict for answer in result.answers for effect in answer.effects]
    return [(verdict, verdicts.count(verdict)) for verdict in Verdict if verdict in verdicts]


def _facts(result: StudyResult) -> dict[str, dict[str, str]]:
    return {
        "Task": {"task": result.task, **result.task_facts},
        "Study": {"profile": result.profile, **result.settings, "seed numbers": _text.ranges(result.seeds)},
        "Versions": result.versions,
    }
