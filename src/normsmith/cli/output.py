"""How commands write: consoles whose reader may be gone, and a study's result as text, JSON or CSV."""

from __future__ import annotations

from typing import TextIO, cast

from rich.console import Console

from normsmith.cli.streams import Unread
from normsmith.cli.study_options import Format
from normsmith.report import print_verdicts, to_csv, to_json
from normsmith.studies import StudyResult


def console(stream: str) -> Console:
    """The console of a standard stream."""
    return Console(file=cast(TextIO, Unread(stream)), highlight=False)


def say(words: str) -> None:
    """One line on standard error, not folded."""
    console("stderr").print(words, highlight=False, markup=False, soft_wrap=True)


def write_out(text: str) -> None:
    """Text on standard output."""
    out = Unread("stdout")
    out.write(text)
    out.flush()


def write_result(result: StudyResult, output: Format) -> None:
    """A study's result on standard output."""
    if output is Format.TEXT:
        print_verdicts(result, console("stdout"))
        write_out("")
    else:
        write_out(to_csv(result) if output is Format.CSV else f"{to_json(result)}\n")
