"""`normsmith check`: what is wrong with a network's normalization."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from normsmith._text import path_text, some
from normsmith.checks import Findings, check_task
from normsmith.checks.baseline import baseline_text, gone, is_known, read_baseline
from normsmith.checks.settings import find_settings
from normsmith.cli.check_fix import Loaded, check_fix_options, mend, say
from normsmith.cli.check_options import (
    Baseline,
    CheckpointOption,
    Domain,
    Ema,
    ExitZero,
    Fixed,
    FixOption,
    Force,
    Format,
    FormatOption,
    Ignore,
    LevelOption,
    Output,
    Prove,
    RankCheckpoints,
    Select,
    TaskName,
    TrainingStep,
    UnsafeFixes,
    Validate,
    WriteBaseline,
)
from normsmith.cli.prints import prints_aside
from normsmith.report.findings import FINDINGS_FORMATS
from normsmith.surgery.checkpoints.write import save_text
from normsmith.tasks import load, load_function


def check(
    task: TaskName,
    select: Select = "",
    ignore: Ignore = "",
    level: LevelOption = None,
    output_format: FormatOption = Format.TEXT,
    output: Output = None,
    checkpoint: CheckpointOption = None,
    ema: Ema = None,
    rank_checkpoint: RankCheckpoints = None,
    validate: Validate = "",
    training_step: TrainingStep = "",
    domain: Domain = "",
    baseline: Baseline = None,
    write_baseline: WriteBaseline = None,
    prove: Prove = False,
    fix: FixOption = False,
    unsafe_fixes: UnsafeFixes = False,
    fixed: Fixed = None,
    force: Force = False,
    exit_zero: ExitZero = False,
) -> None:
    """Find what is wrong with the normalization of a task's network.

    Settings are those of the table tool.normsmith in the nearest pyproject.toml; options replace them.

    Exit code 0: no error or warning (information does not count); 1: there are some; 2: wrong usage, or no rule could
    be run.
    """
    check_fix_options(fix, unsafe=unsafe_fixes, target=fixed, force=force)
    settings = find_settings(Path.cwd())
    known = frozenset() if baseline is None else read_baseline(baseline)
    with prints_aside():  # a network may print in its forward
        own = {"validate": validate, "training_step": training_step, "domain": domain}
        functions: dict[str, Any] = {name: load_function(place) for name, place in own.items() if place}
        network = Loaded(replace(load(task), **functions), checkpoint)
        findings = check_task(
            network.task,
            network.model,
            checkpoint=checkpoint,
            ema=None if ema is None else Loaded(network.task, ema).model,
            rank_checkpoints=rank_checkpoint or None,
            prove=prove,
            level=(settings.level or "standard") if level is None else level.value,
            select=_codes(select) or settings.select,
            ignore=_codes(ignore) or settings.ignore,
        ).without(lambda finding: settings.suppresses(finding) or is_known(finding, known))
    if unmatched := settings.without_module(network.model):
        say(f"{settings.file}: no module fits {some(unmatched, 3)} in per-module-ignores")
    for code, path in gone(findings, known):
        say(f"the baseline has {code} at {path_text(path)}, which is no longer found")
    text = FINDINGS_FORMATS[output_format.value](findings, _file_of(task)) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        save_text(text, output)
    if write_baseline is not None:
        save_text(baseline_text(findings), write_baseline)
    if fix:
        with prints_aside():
            mend(network, findings, unsafe=unsafe_fixes, target=fixed)
    raise typer.Exit(_exit_code(findings, exit_zero or write_baseline is not None))


def _exit_code(findings: Findings, exit_zero: bool) -> int:
    """2 where nothing could be said, 1 where something counts, 0 otherwise."""
    if findings.said_nothing:
        return 2
    return 0 if findings.passed() or exit_zero else 1


def _file_of(task: str) -> Path | None:
    """The file in which a task stands; None for one that is embedded or in a package."""
    path = Path(task.rpartition(".py")[0] + ".py") if ".py" in task else None
    return path if path is not None and path.is_file() else None


def _codes(text: str) -> list[str]:
    return [code for part in text.split(",") if (code := part.strip())]
