"""`normsmith check`: what is wrong with a network's normalization."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from torch import nn

from normsmith import surgery
from normsmith.checks import Findings, check_task
from normsmith.cli.prints import prints_aside
from normsmith.report.findings import FINDINGS_FORMATS
from normsmith.surgery.checkpoints.write import save_text
from normsmith.tasks import Task, build, load


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
    GITHUB = "github"
    JUNIT = "junit"


def check(
    task: Annotated[
        str,
        typer.Argument(
            help="digits-mlp, digits-cnn, file.py:name or package.module:name. The file or module is executed."
        ),
    ],
    select: Annotated[
        str, typer.Option(metavar="CODES", help="Only these rules, as NS1,NS404.", show_default="all")
    ] = "",
    ignore: Annotated[str, typer.Option(metavar="CODES", help="Not these rules.", show_default="none")] = "",
    level: Annotated[
        Level,
        typer.Option(
            help="fast: without data; standard: a few batches; deep: a few training steps on a copy."
        ),
    ] = Level.STANDARD,
    output_format: Annotated[
        Format,
        typer.Option("--format", help="How findings are written; github: annotations, junit: XML."),
    ] = Format.TEXT,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to.", show_default="standard output")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Weights to load first: .safetensors, .pt and the like, or a folder."
        ),
    ] = None,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever was found.")] = False,
) -> None:
    """Find what is wrong with the normalization of a task's network.

    Exit code 0: no error or warning (information does not count); 1: there are some; 2: wrong usage, or no rule could
    be run.
    """
    with prints_aside():  # a network may print in its forward
        findings = _checked(load(task), checkpoint, level.value, _codes(select), _codes(ignore))
    text = FINDINGS_FORMATS[output_format.value](findings, _file_of(task)) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        save_text(text, output)
    if findings.said_nothing:
        raise typer.Exit(2)
    if not (findings.passed() or exit_zero):
        raise typer.Exit(1)


def _checked(
    task: Task, checkpoint: Path | None, level: str, select: list[str], ignore: list[str]
) -> Findings:
    model: nn.Module = build(task, 0)
    if checkpoint is None:
        _say("the network is new; --checkpoint FILE loads the weights of a trained one")
    else:
        _say(str(surgery.load_checkpoint(model, checkpoint)))
    return check_task(
        task,
        model,
        level=level,  # type: ignore[arg-type]  # a value of Level
        select=select,
        ignore=ignore,
        checkpoint=checkpoint,
    )


def _file_of(task: str) -> Path | None:
    """The file in which a task stands; None for one that is embedded or in a package."""
    path = Path(task.rpartition(".py")[0] + ".py") if ".py" in task else None
    return path if path is not None and path.is_file() else None


def _codes(text: str) -> list[str]:
    return [code for part in text.split(",") if (code := part.strip())]


def _say(text: str) -> None:
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)
