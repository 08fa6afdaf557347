"""`normsmith study`: questions about batch norm, answered for one network and its data."""

from __future__ import annotations

import shlex
import sys
from contextlib import chdir
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO, TypeAlias, cast

import typer
from loky import cpu_count
from rich.console import Console

from normsmith.cli.prints import prints_aside
from normsmith.cli.progress import StudyProgress
from normsmith.cli.signals import Terminated, terminable
from normsmith.cli.streams import Unread
from normsmith.report import check_writable, print_verdicts, to_csv, to_json, write_html
from normsmith.studies import Settings, Store, StudyResult, run_study, select
from normsmith.studies.settings import SEEDS
from normsmith.tasks import load
from normsmith.tasks.load import FORMS, absolute

_SEEDS = ", ".join(f"{count} {profile}" for profile, count in SEEDS.items())


AgainWith: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Run a sample of the trials again on another backend (reference, aten, numba) and compare.",
        show_default=False,
    ),
]


class Profile(StrEnum):
    """How thorough a study is."""

    QUICK = "quick"
    FULL = "full"


class Format(StrEnum):
    """What goes to standard output."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"


def study(
    task: Annotated[
        str,
        typer.Argument(help=f"{FORMS}. The file or module is executed."),
    ] = "digits-mlp",
    question: Annotated[
        list[str] | None,
        typer.Option("--question", "-q", help="A question to ask, again for more; by default the profile's."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds per arm.", show_default=_SEEDS)] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Worker processes.", show_default="one a core")
    ] = None,
    profile: Annotated[Profile, typer.Option(help="Full: every question, more seeds.")] = Profile.QUICK,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps per trial.", show_default="the task's")
    ] = None,
    again_with: AgainWith = None,
    timeout: Annotated[
        float, typer.Option(help="Time limit of one trial, in seconds; starting a worker does not count.")
    ] = 600.0,
    store: Annotated[
        str,
        typer.Option(
            help="Where trials are kept: finished ones are never run again. In memory (sqlite://) nothing is kept."
        ),
    ] = "sqlite:///study.db",
    report: Annotated[Path, typer.Option(help="The HTML report to write.")] = Path("report.html"),
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no HTML report.")] = False,
    output: Annotated[
        Format, typer.Option("--format", help="Standard output: verdicts as text, or all results.")
    ] = Format.TEXT,
) -> None:
    """Answer questions about batch norm for a network and its data by paired experiments.

    Exit code 0: done (a diverged trial is a result); 1: a trial raised, was killed or ran out of time, or all diverged;
    2: wrong usage; 130, 143: interrupted, terminated (finished trials are kept, the same command goes on).
    """
    console = _console("stderr")
    questions, jobs = select(tuple(question or ()), profile.value), jobs or cpu_count()
    settings = Settings(seeds, profile.value, jobs, timeout, steps, again_with)
    if not no_report:
        check_writable(report)
    here, name = Path.cwd(), absolute(task)
    with prints_aside():
        # before a store is made, to say what is wrong with it; it may change the working directory
        load(task)
        with chdir(here):
            trials = Store(store)
        with trials, StudyProgress(console, jobs) as progress:
            command = shlex.join(["normsmith", *(a.replace(store, trials.url) for a in sys.argv[1:])])
            try:
                with terminable():
                    result = run_study(name, questions, trials, settings, command=command, progress=progress)
            except KeyboardInterrupt as interrupt:
                console.print(_interrupted(trials, interrupt), highlight=False, markup=False)
                raise typer.Exit(143 if isinstance(interrupt, Terminated) else 130) from None
    if not no_report:
        write_html(result, here / report)
        console.print(f"report: {report}", highlight=False, markup=False, soft_wrap=True)
    _write(result, output)
    if result.nothing_finished or any(failure.status != "diverged" for failure in result.failures):
        raise typer.Exit(1)


def _console(stream: str) -> Console:
    return Console(file=cast(TextIO, Unread(stream)), highlight=False)


def _interrupted(trials: Store, interrupt: KeyboardInterrupt) -> str:
    what = "terminated" if isinstance(interrupt, Terminated) else "interrupted"
    if not trials.is_kept:
        return f"{what}: nothing is kept, since the store {trials.url} is in memory; name a file with --store"
    return f"{what}: {trials.count()} trials are kept in {trials.url}; the same command goes on from there"


def _write(result: StudyResult, output: Format) -> None:
    out = Unread("stdout")
    if output is Format.TEXT:
        print_verdicts(result, _console("stdout"))
    else:
        out.write(to_json(result) if output is Format.JSON else to_csv(result))
        out.write("" if output is Format.CSV else "\n")
    out.flush()
