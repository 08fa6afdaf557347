"""Stored trials with the names of their tasks and arms, which studies give them: for exports and comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from normsmith.studies.store import Record, Store


@dataclass(frozen=True)
class NamedTrial:
    """A trial of a store.

    Attributes:
        record: as it is stored.
        task: the name of its task.
        arm: the name of its arm, as the study says that asked for it last.
        stored: when it was put into the store, in ISO 8601; empty where that is now.
    """

    record: Record
    task: str
    arm: str
    stored: str = ""


def named_trials(store: Store, study: int | None = None) -> Iterator[NamedTrial]:
    """Every trial of a store, or of one of its studies, in the order of their keys; few are in memory at once.

    What no study has named, as in stores of earlier versions, is called by the first characters of the task's
    fingerprint, and by the edits that make the arm.

    Raises:
        StoreError: the store cannot be read, or a record is no longer as it was put.

    >>> trial = Record({"task": "5ca1ab1e" * 8, "arm": []}, "finished", "", {}, 0.4, {"torch": "2.13"})
    >>> with Store("sqlite://") as store:
    ...     store.put(trial)
    ...     for named in named_trials(store):
    ...         print(named.task, "|", named.arm, "|", named.record.status)
    task 5ca1ab1e5ca1 | as is | finished
    """
    tasks = {kept.asked.fingerprint: kept.asked.task for kept in store.studies.all()}
    wanted = None if study is None else set(store.studies.keys(study))
    for page in store.pages():
        arms = store.studies.arms(record.key for record, _ in page)
        for record, stored in page:
            if wanted is None or record.key in wanted:
                fingerprint = str(record.spec.get("task", ""))
                task = tasks.get(fingerprint, f"task {fingerprint[:12]}")
                yield NamedTrial(record, task, arms.get(record.key) or arm_text(record.spec), stored)


def arm_text(spec: Mapping[str, Any]) -> str:
    """An arm by its edits, and those of its data.

    >>> arm_text({"arm": [{"edit": "strip-norm", "arguments": {}},
    ...                   {"edit": "insert-norm", "arguments": {"norm": "batch", "where": "before"}}]})
    'strip-norm, insert-norm(norm=batch, where=before)'
    """
    return ", ".join(map(_edit_text, [*spec.get("arm", ()), *spec.get("data", ())])) or "as is"


def _edit_text(edit: Any) -> str:
    if not isinstance(edit, Mapping):
        return str(edit)
    arguments = ", ".join(f"{name}={value}" for name, value in dict(edit.get("arguments", {})).items())
    return f"{edit.get('edit', '')}({arguments})" if arguments else str(edit.get("edit", ""))
