"""One offline HTML file: verdicts first, then the evidence, then how to get the same again.

The page makes no request, and its figures need no script. Its content security policy admits the one of
`templates/report.js`, by its hash. Whatever a user named is escaped, in the text and in the drawings.
"""

import base64
import hashlib
import os
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from normsmith import _text
from normsmith._extras import imports_of_extra
from normsmith.report import failures, palette, words
from normsmith.report.forest import forest_figures
from normsmith.report.overview import overview, overview_key
from normsmith.report.plots import Figure, chart_figure
from normsmith.report.strips import strip_figure
from normsmith.report.write import write_text
from normsmith.studies import notation
from normsmith.studies.results import Answer, Chart, StripChart, StudyResult, Verdict

if TYPE_CHECKING:
    from jinja2 import Environment

_POLICY = (
    "default-src 'none'; script-src {hash}; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def write_html(result: StudyResult, path: str | os.PathLike[str]) -> None:
    """Write the report of `result` at `path`; on any `ReportError` an old report there stays as it was."""
    write_text(render_html(result), path)


def render_html(result: StudyResult) -> str:
    """The whole report as one HTML document; the same result gives the same text, byte for byte."""
    script = _template_text("report.js")
    figures = {
        f"q{i}-f{j}": figure
        for i, answer in enumerate(result.answers, start=1)
        for j, figure in enumerate(_figures(answer), start=1)
    }
    template = _environment().get_template("report.html.j2")
    return template.render(
        result=result,
        figures=figures,
        overview=overview(result),
        overview_key=overview_key(result),
        failures=failures.grouped(result.failures),
        failure_summary=failures.summary(result.failures),
        tally=_tally(result),
        facts=_facts(result),
        palettes=palette.PALETTES,
        style=_template_text("report.css"),
        script=script,
        policy=_POLICY.format(hash=f"'sha256-{_hash(script)}'"),
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


@cache
def _environment() -> "Environment":
    with imports_of_extra("study", "the HTML report"):
        from jinja2 import Environment, PackageLoader, StrictUndefined
    environment = Environment(
        loader=PackageLoader("normsmith.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        text=_text, notation=notation, words=words, verdict_colours=palette.VERDICT_COLOURS
    )
    return environment


@cache
def _template_text(name: str) -> str:
    return (files("normsmith.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
