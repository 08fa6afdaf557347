"""The options of `normsmith check`, as its help and the reference of the command line show them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from normsmith.tasks.load import FORMS


class Level(StrEnum):
    """How much is looked at."""

    FAST = "fast"
    STANDARD = "standard"
    DEEP = "deep"


class Format(StrEnum):
    """How findings are written."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    HTML = "html"
    GITHUB = "github"
    JUNIT = "junit"


TaskName = Annotated[
    str,
    typer.Argument(help=f"{FORMS}. The file or module is executed."),
]
Select = Annotated[
    str, typer.Option(metavar="CODES", help="Only these rules, as NS1,NS404.", show_default="all")
]
Ignore = Annotated[str, typer.Option(metavar="CODES", help="Not these rules.", show_default="none")]
LevelOption = Annotated[
    Level | None,
    typer.Option(
        help="fast: without data; standard: a few batches; deep: a few training steps on a copy.",
        show_default="standard",
    ),
]
FormatOption = Annotated[
    Format,
    typer.Option("--format", help="How findings are written; github: annotations, junit: XML."),
]
Output = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Where to.", show_default="standard output")
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Weights to load first: .safetensors, .pt and the like, or a folder."),
]
Ema = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Weights of an averaged copy (EMA, SWA), to be looked at as well."),
]
RankCheckpoints = Annotated[
    list[Path] | None,
    typer.Option(
        "--rank-checkpoint", metavar="FILE", help="What a rank of a distributed run has saved; once for each."
    ),
]
Validate = Annotated[
    str,
    typer.Option(
        metavar="FILE:NAME", help="Your validation, a function of the model.", show_default="the task's"
    ),
]
TrainingStep = Annotated[
    str,
    typer.Option(
        metavar="FILE:NAME",
        help="What happens within a step of your training: a function of the model, batches and optimizer.",
        show_default="the task's",
    ),
]
Domain = Annotated[
    str,
    typer.Option(
        metavar="FILE:NAME",
        help="Where a batch comes from: a function of the batch, if data are of several kinds.",
        show_default="the task's",
    ),
]
Baseline = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Findings that are known and do not count.")
]
WriteBaseline = Annotated[
    Path | None,
    typer.Option(
        "--write-baseline", metavar="FILE", help="Write what is found as a baseline, and exit with 0."
    ),
]
Prove = Annotated[
    bool,
    typer.Option(
        "--prove", help="Try each fix on a copy: loss and metric before and after, on held-back batches."
    ),
]
FixOption = Annotated[
    bool,
    typer.Option("--fix", help="Mend what keeps the outputs; shows the plans first, writes with --fixed."),
]
UnsafeFixes = Annotated[
    bool, typer.Option("--unsafe-fixes", help="For --fix: also what changes outputs in evaluation.")
]
Fixed = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="For --fix: write the mended network's weights: .safetensors, .pt."),
]
Force = Annotated[bool, typer.Option("--force", help="For --fixed: overwrite a file that exists.")]
ExitZero = Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever was found.")]
