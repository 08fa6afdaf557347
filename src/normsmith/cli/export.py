"""`normsmith export`: the trials of a store for other programs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from normsmith._text import count
from normsmith.cli.output import say
from normsmith.cli.stores import StoreName, check_filled, chosen, existing_store
from normsmith.errors import InputError
from normsmith.report import export_trials
from normsmith.report.trials.export import SINK_FORMS, is_sink
from normsmith.studies import named_trials


class RowsOf(StrEnum):
    """What a row of a file is."""

    TRIALS = "trials"
    EVALUATIONS = "evaluations"
    PROBES = "probes"


def export(
    store: StoreName,
    to: Annotated[str, typer.Option(metavar="TARGET", help=f"A .parquet or .csv file, {SINK_FORMS}.")],
    rows: Annotated[RowsOf, typer.Option(help="Of a file: a row for each of these.")] = RowsOf.TRIALS,
    study: Annotated[
        int | None, typer.Option(min=1, help="Only the trials of this study.", show_default="all trials")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")] = False,
) -> None:
    """Write the trials of a store to a table in a file, or to TensorBoard or MLflow.

    A file is written whole or not at all. TensorBoard and MLflow get one run for each trial that finished or diverged,
    and none twice. Exit code 0: done; 2: wrong usage, or nothing can be read or written there.
    """
    if is_sink(to) and rows is not RowsOf.TRIALS:
        raise InputError(
            f"expected --rows with a .parquet or .csv file, got {to}: it takes trials with their curves"
        )
    with existing_store(store) as trials:
        check_filled(trials)
        number = None if study is None else chosen(trials, study).number
        written = export_trials(named_trials(trials, number), to, rows=rows.value, force=force)
        said = f"{count(written, 'trial')} read" if is_sink(to) else count(written, "row")
        say(f"{said}: {trials.url} to {to}")
