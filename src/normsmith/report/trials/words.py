"""What a trial is, by name, as experiment trackers show it."""

from __future__ import annotations

from normsmith.studies.named_trials import NamedTrial

RESULTS = ("finished", "diverged")
"""Statuses of trials that experiment trackers get: they never change. Others are run again, and have no curves."""


def described(trial: NamedTrial) -> dict[str, str | float | int]:
    """The settings of a trial, and what computed it.

    >>> from normsmith.studies.store import Record
    >>> spec = {"learning_rate": 0.1, "seed": 3, "arm": [], "task": "5ca1ab1e"}
    >>> described(NamedTrial(Record(spec, "finished", "", {}, 0.4, {"torch": "2.13"}), "digits", "as is"))
    {'task': 'digits', 'arm': 'as is', 'learning_rate': 0.1, 'seed': 3, 'torch': '2.13'}
    """
    spec = trial.record.spec
    settings = {
        name: as_text(value) if isinstance(value := spec[name], str) else value
        for name in ("learning_rate", "seed", "stream", "steps", "detail")
        if isinstance(spec.get(name), str | float | int)
    }
    versions = {name.replace(" ", "_"): as_text(version) for name, version in trial.record.versions.items()}
    return {"task": as_text(trial.task), "arm": as_text(trial.arm), **settings, **versions}


def as_text(text: str) -> str:
    r"""Text that every file holds: what no encoding has is written as Python does.

    >>> as_text("caf\udce9 é")
    'caf\\udce9 é'
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
