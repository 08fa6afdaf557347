"""The application that the verbs hang on."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from normsmith.cli.check import check
from normsmith.cli.compare import compare
from normsmith.cli.explain import explain
from normsmith.cli.export import export
from normsmith.cli.fix import fix
from normsmith.cli.questions import questions
from normsmith.cli.report import report
from normsmith.cli.rules import rules
from normsmith.cli.study import study

app = typer.Typer(
    name="normsmith",
    help="Batch normalization that can be depended on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"normsmith {version('normsmith')}")
        raise typer.Exit
    return wanted  # what a callback returns is what the parameter becomes


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(study)
app.command()(report)
app.command()(compare)
app.command()(export)
app.command()(check)
app.command()(fix)
app.command()(questions)
app.command()(rules)
app.command()(explain)
