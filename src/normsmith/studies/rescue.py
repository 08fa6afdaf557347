"""Rescue: when a store is lost while a study runs, the trials that were computed are put into another one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from normsmith._text import count
from normsmith.errors import StoreError
from normsmith.studies.store import Record, Store

FILE = "study-rescued.db"


@contextmanager
def rescuing(store: Store, records: Mapping[str, Record]) -> Iterator[None]:
    """Where the block fails for want of the store, save those of `records` that are not in it, and say where.

    Raises:
        StoreError: the block's, with what was saved.
    """
    try:
        yield
    except StoreError as error:
        lost = _lost(store, records)
        if not lost:
            raise
        raise StoreError(f"{error}; {_saved(lost)}") from error


def _lost(store: Store, records: Mapping[str, Record]) -> list[Record]:
    """The records that the store does not give back."""
    try:
        there = store.get(records)
    except StoreError:
        there = {}
    return [record for key, record in records.items() if key not in there]


def _saved(records: list[Record]) -> str:
    """Save the records in the working directory, or else where temporary files go; returns a sentence on it."""
    trials = f"the {count(len(records), 'trial')} of this study that it does not have"
    why = ""
    for folder in dict.fromkeys((Path.cwd(), Path(tempfile.gettempdir()))):
        url = f"sqlite:///{folder / FILE}"
        try:
            with Store(url) as refuge:
                for record in records:
                    refuge.put(record)
        except StoreError as error:
            why = str(error)
        else:
            return f"{trials} are saved: the same command goes on from them with --store {url}"
    return f"{trials} are lost, since they could not be saved either: {why}"
