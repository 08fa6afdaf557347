"""One offline HTML file: verdicts first, then the evidence, then how to get the same again.

The page makes no request. Its content security policy admits two scripts, by their hashes: Plotly's and the
short one of `templates/report.js`. Whatever a user named is escaped, in the text, in the data of the figures
and in Plotly's own small HTML.
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
from normsmith.report.plots import Figure, chart_figure
from normsmith.report.write import write_text
from normsmith.studies import notation
from normsmith.studies.results import Answer, StudyResult, Verdict

if TYPE_CHECKING:
    from jinja2 import Environment

_POLICY = (
    "default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def write_html(result: StudyResult, path: str | os.PathLike[str]) -> None:
    """Write the report of `result` at `path`; on any `ReportError` an old report there stays as it was."""
    write_text(render_html(result), path)


def render_html(result: StudyResult) -> str:
    """The whole report as one HTML document; the same result gives the same text, byte for byte."""
    scripts = (_plotly(), _template_text("report.js"))
    figures = {
        f"q{i}-f{j}": figure
        for i, answer in enumerate(result.answers, start=1)
        for j, figure in enumerate(_figures(answer), start=1)
    }
    template = _environment().get_template("report.html.j2")
    return template.render(
        result=result,
        figures=figures,
        specs={name: figure.spec for name, figure in figures.items()},
        failures=failures.grouped(result.failures),
        failure_summary=failures.summary(result.failures),
        tally=_tally(result),
        facts=_facts(result),
        palettes=palette.PALETTES,
        style=_template_text("report.css"),
        scripts=scripts,
        policy=_POLICY.format(hashes=" ".join(f"'sha256-{_hash(script)}'" for script in scripts)),
    )


def _figures(answer: Answer) -> list[Figure]:
    return [*forest_figures(answer.effects), *(chart_figure(chart) for chart in answer.charts)]


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
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals.update(
        text=_text, notation=notation, words=words, verdict_colours=palette.VERDICT_COLOURS
    )
    return environment


@cache
def _plotly() -> str:
    with imports_of_extra("study", "the HTML report"):
        from plotly.offline import get_plotlyjs
    return str(get_plotlyjs())


@cache
def _template_text(name: str) -> str:
    return (files("normsmith.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
