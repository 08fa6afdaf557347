"""The options of `normsmith study`, as its help and the reference of the command line show them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from normsmith.errors import StudyError
from normsmith.report.trials.export import SINK_FORMS
from normsmith.studies.executors.cluster import LOCAL, RayExecutor
from normsmith.studies.executors.executor import Executor
from normsmith.studies.executors.local import LocalExecutor
from normsmith.studies.settings import SEEDS
from normsmith.tasks.load import FORMS

_SEEDS = ", ".join(f"{count} {profile}" for profile, count in SEEDS.items())


class Profile(StrEnum):
    """How thorough a study is."""

    QUICK = "quick"
    FULL = "full"


class Format(StrEnum):
    """What goes to standard output."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"


class Where(StrEnum):
    """What runs trials."""

    LOCAL = "local"
    RAY = "ray"


class Placement(StrEnum):
    """How trials are placed on the nodes of a cluster."""

    PACK = "pack"
    SPREAD = "spread"


TaskName = Annotated[str, typer.Argument(help=f"{FORMS}. The file or module is executed.")]
Questions = Annotated[
    list[str] | None,
    typer.Option("--question", "-q", help="A question to ask, again for more; by default the profile's."),
]
Seeds = Annotated[int | None, typer.Option(min=1, help="Seeds per arm.", show_default=_SEEDS)]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Worker processes.", show_default="one a core, a GPU, or a share of a cluster"),
]
Recommend = Annotated[
    bool,
    typer.Option(
        "--recommend",
        help="Ask which norm the network needs, where and at which rate; the answer comes last.",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="The time to spend, such as 90s, 30m or 2h: what decides most in the least time comes first, and is "
        "judged at 10 and at 20 seeds.",
        show_default=False,
    ),
]
ProfileOption = Annotated[Profile, typer.Option(help="Full: every question, more seeds.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Training steps per trial.", show_default="the task's")
]
AgainWith = Annotated[
    str | None,
    typer.Option(
        help="Run a sample of the trials again on another backend (reference, aten, numba) and compare.",
        show_default=False,
    ),
]
Timeout = Annotated[
    float, typer.Option(help="Time limit of one trial, in seconds; starting a worker does not count.")
]
StoreOption = Annotated[
    str,
    typer.Option(
        help="Where trials are kept: finished ones are never run again. In memory (sqlite://) nothing is kept."
    ),
]
SinkOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sink", metavar="SINK", help=f"Show trials there as they finish, again for more: {SINK_FORMS}."
    ),
]
Report = Annotated[Path, typer.Option(help="The HTML report to write.")]
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no HTML report.")]
FormatOption = Annotated[
    Format, typer.Option("--format", help="Standard output: verdicts as text, or all results.")
]
ExecutorOption = Annotated[
    Where,
    typer.Option("--executor", help="Where trials run: on this machine, or on a Ray cluster (extra ray)."),
]
Devices = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES", help="GPUs of this machine, as cuda:0,cuda:1, a worker each.", show_default="all"
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="local: a cluster for this study; auto: the one that runs here; or host:port.",
        show_default=LOCAL,
    ),
]
RayCpus = Annotated[
    float | None, typer.Option(help="CPUs of a node that one trial takes; parts too.", show_default="1")
]
RayGpus = Annotated[
    float | None,
    typer.Option(
        help="GPUs of a node that one trial takes; parts too.", show_default="1 if the task is on one"
    ),
]
RayPlacement = Annotated[
    Placement | None,
    typer.Option(help="Fill one node before the next, or divide among all.", show_default="pack"),
]
RayRetries = Annotated[
    int | None, typer.Option(help="How often a trial is begun again whose node is lost.", show_default="2")
]


def executor_of(
    where: Where,
    devices: str | None,
    address: str | None,
    cpus: float | None,
    gpus: float | None,
    placement: Placement | None,
    retries: int | None,
) -> Executor:
    """The executor that the options describe.

    Raises:
        StudyError: an option of the one stands beside the other.
    """
    of_ray = {"address": address, "cpus": cpus, "gpus": gpus, "placement": placement, "retries": retries}
    given = {name: value for name, value in of_ray.items() if value is not None}
    if where is Where.RAY:
        if devices is not None:
            raise StudyError(
                "--devices: expected it without --executor ray, where --ray-gpus says what a trial takes"
            )
        chosen = {name: str(value) if isinstance(value, StrEnum) else value for name, value in given.items()}
        return RayExecutor(**chosen)  # type: ignore[arg-type]
    if given:
        raise StudyError(
            f"--ray-{next(iter(given))}: expected it with --executor ray, got --executor {where}"
        )
    return LocalExecutor(tuple(name.strip() for name in devices.split(",")) if devices is not None else ())
