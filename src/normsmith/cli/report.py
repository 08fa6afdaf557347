"""`normsmith report`: the report of a study that a store keeps, without running a trial."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from normsmith.cli import output
from normsmith.cli.stores import StoreName, chosen, existing_store, incomplete, listed
from normsmith.cli.study_options import Format as StudyFormat
from normsmith.report import write_html


class Format(StrEnum):
    """How the report is written."""

    HTML = "html"
    TEXT = "text"
    JSON = "json"
    CSV = "csv"


def report(
    store: StoreName,
    study: Annotated[
        int | None, typer.Option(min=1, help="The number of a study.", show_default="asked last")
    ] = None,
    only_list: Annotated[
        bool, typer.Option("--list", help="List the studies of the store, and no more.")
    ] = False,
    form: Annotated[
        Format, typer.Option("--format", help="html: a file; the others go to standard output.")
    ] = Format.HTML,
    path: Annotated[Path, typer.Option("--report", help="The HTML report to write.")] = Path("report.html"),
) -> None:
    """Write the report of a study again, from what its store keeps; no trial is run and no task is loaded.

    Exit code 0: done; 1: trials of the study are missing, or it never finished (then there is no report); 2: wrong
    usage, or no study is there.
    """
    with existing_store(store) as trials:
        kept = chosen(trials, study)
        if only_list:
            output.write_out("".join(f"{listed(each)}\n" for each in trials.studies.all()))
            return
        missing = incomplete(kept)
        if not kept.ended:
            output.say(missing)
            raise typer.Exit(1)
        result = trials.studies.result(kept.number)
    if form is Format.HTML:
        write_html(result, path)
        output.say(f"report: {path}")
    else:
        output.write_result(result, StudyFormat(form.value))
    if missing:
        output.say(missing)
    if missing or result.nothing_finished:
        raise typer.Exit(1)
