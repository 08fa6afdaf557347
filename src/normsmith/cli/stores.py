"""Stores that commands open: a study's is made, those that are read never are, and have their studies by numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from normsmith._text import count, moment
from normsmith.errors import NormsmithError, StoreError
from normsmith.studies import Store
from normsmith.studies.kept import KeptStudy

StoreName = Annotated[str, typer.Argument(help="A store: a file such as study.db, or its URL.")]


@contextmanager
def store_of_study(url: str) -> Iterator[Store]:
    """The store that a study goes on with or begins; where the study is refused, none is left that was not there.

    Raises:
        StoreError: it cannot be made or written, or what is there is no store.
    """
    with Store(url) as store:
        try:
            yield store
        except NormsmithError:
            store.discard()
            raise


def existing_store(name: str) -> Store:
    """Open a store to read it.

    Raises:
        StoreError: there is none, or what is there is no store.
    """
    return Store(name if "://" in name else f"sqlite:///{name}", create=False)


def chosen(store: Store, number: int | None) -> KeptStudy:
    """The study of a number, or the one that was asked last.

    Raises:
        StoreError: there is none, with what to do.
    """
    studies = store.studies.all()
    if not studies:
        check_filled(store)
        raise StoreError(
            f"expected a study in {store.url}, got {count(store.count(), 'trial')} and no study (earlier versions kept "
            f"none): ask it again with `normsmith study … --store {store.url}`, which runs no trial that is there"
        )
    if number is None:
        return max(studies, key=lambda kept: (kept.asked.started, kept.number))
    for kept in studies:
        if kept.number == number:
            return kept
    numbers = ", ".join(str(kept.number) for kept in studies)
    raise StoreError(
        f"expected one of the studies {numbers} of {store.url}, got {number}; "
        "`normsmith report … --list` says what they are"
    )


def check_filled(store: Store) -> None:
    """Refuse a store without a trial.

    Raises:
        StoreError: there is none.
    """
    if not store.count():
        raise StoreError(
            f"expected trials in {store.url}, got an empty store; `normsmith study --store {store.url}` fills it"
        )


def listed(kept: KeptStudy) -> str:
    """A study in one line: its number, when it was asked, of which task, and how far it is."""
    asked = kept.asked
    seeds = (
        f", {count(asked.settings['seeds'], 'seed')}" if isinstance(asked.settings.get("seeds"), int) else ""
    )
    missing = f", {kept.missing:,} missing" if kept.missing else ""
    state = "" if kept.ended else ", not finished"
    return (
        f"{kept.number}  {moment(asked.started)}  {asked.task}: {', '.join(asked.questions)}{seeds}; "
        f"{count(kept.trials, 'trial')}{missing}{state}"
    )


def incomplete(kept: KeptStudy) -> str:
    """How many trials of a study are missing, and what runs them; nothing if it is complete."""
    if kept.ended and not kept.missing:
        return ""
    ended = "is complete but for these" if kept.ended else "has not finished"
    how = kept.asked.command or "run it again from Python, with the same task, questions, settings and store"
    return (
        f"study {kept.number} {ended}: {kept.missing:,} of the {count(kept.trials, 'trial')} that it has asked for "
        f"so far are missing; this completes it: {how}"
    )
