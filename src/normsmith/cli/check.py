"""`normsmith check`: what is wrong with a network's normalization."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from torch import nn

from normsmith import surgery
from normsmith._text import path_text, some
from normsmith.checks import Findings, check_task
from normsmith.checks.baseline import baseline_text, gone, is_known, read_baseline
from normsmith.checks.settings import Settings, find_settings
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
        Level | None,
        typer.Option(
            help="fast: without data; standard: a few batches; deep: a few training steps on a copy.",
            show_default="standard",
        ),
    ] = None,
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
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Findings that are known and do not count.")
    ] = None,
    write_baseline: Annotated[
        Path | None,
        typer.Option(
            "--write-baseline", metavar="FILE", help="Write what is found as a baseline, and exit with 0."
        ),
    ] = None,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever was found.")] = False,
) -> None:
    """Find what is wrong with the normalization of a task's network.

    Settings are those of `[tool.normsmith]` in the nearest pyproject.toml; options replace them.

    Exit code 0: no error or warning (information does not count); 1: there are some; 2: wrong usage, or no rule could
    be run.
    """
    settings = find_settings(Path.cwd())
    known = frozenset() if baseline is None else read_baseline(baseline)
    with prints_aside():  # a network may print in its forward
        findings = _checked(
            load(task),
            checkpoint,
            settings,
            level=(settings.level or "standard") if level is None else level.value,
            select=_codes(select) or settings.select,
            ignore=_codes(ignore) or settings.ignore,
        ).without(lambda finding: settings.suppresses(finding) or is_known(finding, known))
    for code, path in gone(findings, known):
        _say(f"the baseline has {code} at {path_text(path)}, which is no longer found")
    text = FINDINGS_FORMATS[output_format.value](findings, _file_of(task)) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        save_text(text, output)
    if write_baseline is not None:
        save_text(baseline_text(findings), write_baseline)
        exit_zero = True
    if findings.said_nothing:
        raise typer.Exit(2)
    if not (findings.passed() or exit_zero):
        raise typer.Exit(1)


def _checked(task: Task, checkpoint: Path | None, settings: Settings, **options: Any) -> Findings:
    model: nn.Module = build(task, 0)
    if checkpoint is None:
        _say("the network is new; --checkpoint FILE loads the weights of a trained one")
    else:
        _say(str(surgery.load_checkpoint(model, checkpoint)))
    if unmatched := settings.without_module(model):
        _say(f"{settings.file}: no module fits {some(unmatched, 3)} in per-module-ignores")
    return check_task(task, model, checkpoint=checkpoint, **options)


def _file_of(task: str) -> Path | None:
    """The file in which a task stands; None for one that is embedded or in a package."""
    path = Path(task.rpartition(".py")[0] + ".py") if ".py" in task else None
    return path if path is not None and path.is_file() else None


def _codes(text: str) -> list[str]:
    return [code for part in text.split(",") if (code := part.strip())]


def _say(text: str) -> None:
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)
