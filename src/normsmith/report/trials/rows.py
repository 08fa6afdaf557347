"""Tidy rows of stored trials: one for each trial, each evaluation, or each measurement of a probe."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from normsmith.report.trials.words import as_text
from normsmith.studies.named_trials import NamedTrial
from normsmith.studies.trial import Outcome, probe_steps

Value: TypeAlias = str | int | float | datetime | None
Row: TypeAlias = tuple[Value, ...]
Kind: TypeAlias = Literal["text", "whole", "number", "time"]


@dataclass(frozen=True)
class Rows:
    """A table of stored trials.

    Attributes:
        columns: the kind of each column, by name.
        of: its rows, of one trial.
    """

    columns: dict[str, Kind]
    of: Callable[[NamedTrial], Iterator[Row]]


_VERSIONS = ("normsmith", "torch", "numpy", "python", "backend", "instruction set")


def _trial(trial: NamedTrial) -> Iterator[Row]:
    record, spec = trial.record, trial.record.spec
    outcome = Outcome.of(record)
    yield (
        record.key,
        as_text(trial.task),
        as_text(trial.arm),
        _number(spec.get("learning_rate")),
        _whole(spec.get("seed")),
        _whole(spec.get("stream")),
        _whole(spec.get("steps")),
        record.status,
        as_text(record.reason),
        *(_last(curve) for curve in (outcome.loss, outcome.validation, outcome.test)),
        record.seconds,
        _time(trial.stored),
        *(_optional_text(record.versions.get(name)) for name in _VERSIONS),
        _json(record.versions),
        _json(spec.get("arm", [])),
        _json(spec.get("data", [])),
        _optional_text(spec.get("detail")),
        _whole(spec.get("engine")),
        _optional_text(spec.get("task")),
    )


def _evaluations(trial: NamedTrial) -> Iterator[Row]:
    outcome = Outcome.of(trial.record)
    curves = (outcome.loss, outcome.validation, outcome.test)
    for index, step in enumerate(outcome.steps):
        yield (trial.record.key, step, *(_number(_at(curve, index)) for curve in curves))


def _probes(trial: NamedTrial) -> Iterator[Row]:
    outcome = Outcome.of(trial.record)
    for name, values in outcome.probes.items():
        steps = measured_at(trial, values)
        for index, value in enumerate(values):
            yield (trial.record.key, as_text(name), index, _at(steps, index), _number(value))


def measured_at(trial: NamedTrial, values: Sequence[float]) -> tuple[int, ...]:
    """After which steps a probe of a trial measured these values; empty where it left out some of its turns."""
    steps = probe_steps(
        trial.record.measurements.get("steps", ()), _whole(trial.record.spec.get("steps")) or 0
    )
    return steps if len(steps) == len(values) else ()


TABLES: dict[str, Rows] = {
    "trials": Rows(
        {
            "key": "text",
            "task": "text",
            "arm": "text",
            "learning_rate": "number",
            "seed": "whole",
            "stream": "whole",
            "steps": "whole",
            "status": "text",
            "reason": "text",
            "loss": "number",
            "validation": "number",
            "test": "number",
            "seconds": "number",
            "stored": "time",
            **{name.replace(" ", "_"): "text" for name in _VERSIONS},
            "versions": "text",
            "edits": "text",
            "data_edits": "text",
            "detail": "text",
            "engine": "whole",
            "task_fingerprint": "text",
        },
        _trial,
    ),
    "evaluations": Rows(
        {"key": "text", "step": "whole", "loss": "number", "validation": "number", "test": "number"},
        _evaluations,
    ),
    "probes": Rows(
        {"key": "text", "probe": "text", "measurement": "whole", "step": "whole", "value": "number"}, _probes
    ),
}
"""The tables by name. In `trials`, `loss`, `validation` and `test` are those of the last evaluation."""


def _last(curve: Sequence[float]) -> float | None:
    return _number(curve[-1]) if curve else None


def _at(values: Sequence[Any], index: int) -> Any:
    return values[index] if index < len(values) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and abs(value) < 2**63 else None


def _optional_text(value: Any) -> str | None:
    return None if value is None else as_text(str(value))


def _json(value: Any) -> str:
    """JSON in ASCII, so that nothing of a name is lost; what JSON has no number for is written as its name."""
    return json.dumps(_finite(value), sort_keys=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
