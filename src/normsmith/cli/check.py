"""`normsmith check`: what is wrong with a network's normalization."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from torch import nn

from normsmith import surgery
from normsmith._text import path_text, some
from normsmith.checks import Findings, check_task
from normsmith.checks.baseline import baseline_text, gone, is_known, read_baseline
from normsmith.checks.settings import Settings, find_settings
from normsmith.cli.check_options import (
    Baseline,
    CheckpointOption,
    ExitZero,
    Format,
    FormatOption,
    Ignore,
    LevelOption,
    Output,
    Select,
    TaskName,
    WriteBaseline,
)
from normsmith.cli.prints import prints_aside
from normsmith.report.findings import FINDINGS_FORMATS
from normsmith.surgery.checkpoints.write import save_text
from normsmith.tasks import Task, build, load


def check(
    task: TaskName,
    select: Select = "",
    ignore: Ignore = "",
    level: LevelOption = None,
    output_format: FormatOption = Format.TEXT,
    output: Output = None,
    checkpoint: CheckpointOption = None,
    baseline: Baseline = None,
    write_baseline: WriteBaseline = None,
    exit_zero: ExitZero = False,
) -> None:
    """Find what is wrong with the normalization of a task's network.

    Settings are those of the table tool.normsmith in the nearest pyproject.toml; options replace them.

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
    raise typer.Exit(_exit_code(findings, exit_zero or write_baseline is not None))


def _exit_code(findings: Findings, exit_zero: bool) -> int:
    """2 where nothing could be said, 1 where something counts, 0 otherwise."""
    if findings.said_nothing:
        return 2
    return 0 if findings.passed() or exit_zero else 1


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
