"""`normsmith study`: questions about batch norm, answered for one network and its data."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack, chdir, closing
from dataclasses import replace
from pathlib import Path

import typer

from normsmith.cli.output import console, write_result
from normsmith.cli.prints import prints_aside
from normsmith.cli.progress import StudyProgress
from normsmith.cli.signals import Terminated, terminable
from normsmith.cli.stores import store_of_study
from normsmith.cli.study_options import (
    AgainWith,
    Budget,
    Devices,
    ExecutorOption,
    Format,
    FormatOption,
    Jobs,
    NoReport,
    Profile,
    ProfileOption,
    Questions,
    RayAddress,
    RayCpus,
    RayGpus,
    RayPlacement,
    RayRetries,
    Recommend,
    Report,
    Seeds,
    SinkOption,
    Steps,
    StoreOption,
    TaskName,
    Timeout,
    Where,
    executor_of,
)
from normsmith.report import check_writable, write_html
from normsmith.report.trials.export import open_sink
from normsmith.studies import Settings, Store, run_study, select
from normsmith.studies.settings import seconds_of
from normsmith.tasks import load
from normsmith.tasks.load import absolute

RECOMMENDING = "which-norm"
"""The question that `--recommend` asks, besides those that are named."""


def study(
    task: TaskName = "digits-mlp",
    question: Questions = None,
    seeds: Seeds = None,
    jobs: Jobs = None,
    profile: ProfileOption = Profile.QUICK,
    recommend: Recommend = False,
    budget: Budget = None,
    steps: Steps = None,
    again_with: AgainWith = None,
    timeout: Timeout = 600.0,
    executor: ExecutorOption = Where.LOCAL,
    devices: Devices = None,
    ray_address: RayAddress = None,
    ray_cpus: RayCpus = None,
    ray_gpus: RayGpus = None,
    ray_placement: RayPlacement = None,
    ray_retries: RayRetries = None,
    store: StoreOption = "sqlite:///study.db",
    sink: SinkOption = None,
    report: Report = Path("report.html"),
    no_report: NoReport = False,
    output: FormatOption = Format.TEXT,
) -> None:
    """Answer questions about batch norm for a network and its data by paired experiments.

    Exit code 0: done (a diverged trial is a result); 1: a trial raised, was killed or ran out of time, or all diverged;
    2: wrong usage; 130, 143: interrupted, terminated (finished trials are kept, the same command goes on).
    """
    terminal = console("stderr")
    asked = (*(question or ()), *([RECOMMENDING] if recommend else ()))
    questions = select(asked, profile.value)
    place = executor_of(executor, devices, ray_address, ray_cpus, ray_gpus, ray_placement, ray_retries)
    seconds = None if budget is None else seconds_of(budget)
    settings = Settings(seeds, profile.value, jobs or 1, timeout, steps, again_with, place, seconds)
    if not no_report:
        check_writable(report)
    here, name = Path.cwd(), absolute(task)
    with prints_aside(), ExitStack() as opened:
        # before a store is made, to say what is wrong with it; it may change the working directory
        width = place.width(load(task).device)  # also where --jobs is given: it refuses what is not there
        settings = replace(settings, jobs=jobs or width)
        with chdir(here):
            sinks = [opened.enter_context(closing(open_sink(to))) for to in sink or ()]
            trials = opened.enter_context(store_of_study(store))
        progress = opened.enter_context(StudyProgress(terminal, settings.jobs))
        command = _command({store: trials.url, **dict(zip(sink or (), map(str, sinks), strict=True))})
        try:
            with terminable():
                result = run_study(
                    name, questions, trials, settings, command=command, progress=progress, sinks=sinks
                )
        except KeyboardInterrupt as interrupt:
            terminal.print(_interrupted(trials, interrupt), highlight=False, markup=False)
            raise typer.Exit(143 if isinstance(interrupt, Terminated) else 130) from None
    if not no_report:
        write_html(result, here / report)
        terminal.print(f"report: {report}", highlight=False, markup=False, soft_wrap=True)
    write_result(result, output)
    if result.nothing_finished or any(failure.status != "diverged" for failure in result.failures):
        raise typer.Exit(1)


def _command(shown: Mapping[str, str]) -> str:
    """The command line, with addresses as they may be shown, without passwords."""
    words = sys.argv[1:]
    for address, as_shown in shown.items():
        words = [
            word.removesuffix(address) + as_shown if word == address or word.endswith(f"={address}") else word
            for word in words
        ]
    return shlex.join(["normsmith", *words])


def _interrupted(trials: Store, interrupt: KeyboardInterrupt) -> str:
    what = "terminated" if isinstance(interrupt, Terminated) else "interrupted"
    if not trials.is_kept:
        return f"{what}: nothing is kept, since the store {trials.url} is in memory; name a file with --store"
    return f"{what}: {trials.count()} trials are kept in {trials.url}; the same command goes on from there"
