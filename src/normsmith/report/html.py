"""One offline HTML file: verdicts first, then the evidence, then how to get the same again.

The page makes no request, and its figures need no script. Its content security policy admits the one of
`templates/report.js`, by its hash. Whatever a user named is escaped, in the text and in the drawings.
"""

import base64
import hashlib
import os
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING

from markupsafe import Markup

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

_LONGEST, _LONGEST_NAME = 2000, 120  # characters of what somebody wrote, and of a name
_TURNS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F])
"""Characters that change the direction of the text after them: dropped."""
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
    page = template.render(
        result=result,
        figures=figures,
        overview=overview(result),
        overview_key=overview_key(result),
        failures=failures.grouped(result.failures),
        failure_summary=failures.summary(result.failures),
        nothing_finished=failures.nothing_finished(result),
        tally=_tally(result),
        facts=_facts(result),
        palettes=palette.PALETTES,
        style=_template_text("report.css"),
        script=script,
        policy=_POLICY.format(hash=f"'sha256-{_hash(script)}'"),
    )
    return _text.encodable(page).translate(_TURNS)


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
        finalize=_readable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["name"] = partial(_text.cut, most=_LONGEST_NAME)
    environment.globals.update(
        text=_text, notation=notation, words=words, verdict_colours=palette.VERDICT_COLOURS
    )
    return environment


def _readable(value: object) -> object:
    """What a template writes: text that somebody else wrote does not run on for megabytes."""
    return _text.cut(value, _LONGEST) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _template_text(name: str) -> str:
    return (files("normsmith.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
