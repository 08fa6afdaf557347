"""Made-up trials: an ordinary one, and the worst that a store can hold."""

from __future__ import annotations

import math
from typing import Any

from normsmith.studies.named_trials import NamedTrial
from normsmith.studies.store import Record

STORED = "2026-02-03T10:15:42+00:00"
NAN = math.nan


def trial(seed: int = 0, **changes: Any) -> NamedTrial:
    """A trial of four steps with two evaluations, and a probe that measured at the second."""
    fields: dict[str, Any] = {
        "spec": {
            "arm": [{"edit": "strip-norm", "arguments": {}}],
            "learning_rate": 0.1,
            "seed": seed,
            "stream": 0,
            "steps": 4,
            "detail": "curve",
            "probes": ["activation-signals"],
            "task": "5ca1ab1e" * 8,
            "engine": 5,
        },
        "status": "finished",
        "reason": "",
        "measurements": {
            "steps": [0, 2, 4],
            "loss": [NAN, 1.5, 0.1 + 0.2],
            "validation": [0.1, 0.5, 0.75],
            "test": [0.125, 0.5, 0.7],
            "probes": {"σ′": [0.25, 0.125]},
            "resampled": [0.7],
        },
        "seconds": 1.5,
        "versions": {"torch": "2.13", "backend": "numba 0.66", "instruction set": "x86_64 AVX2"},
    }
    return NamedTrial(Record(**{**fields, **changes}), "digits", "no norm", STORED)


def nasty() -> NamedTrial:
    """A formula, lone surrogates, NUL, a megabyte, and numbers that few formats have."""
    made = trial(
        7,
        status="diverged",
        reason='=HYPERLINK("x")\n' + "é\udce9\0," * 200_000,
        measurements={
            "steps": [0, 2],
            "loss": [NAN, math.inf],
            "validation": [0.1, -math.inf],
            "test": [0.1],
            "probes": {"p\ud800": [1e-300], "empty": []},
        },
        versions={},
    )
    return NamedTrial(made.record, "task \ud800", "@arm", "")
