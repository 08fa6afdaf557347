"""Sharing: which trials of a batch this study runs, where others on the same store are running some of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from normsmith.errors import StoreError
from normsmith.studies._claims import new_owner
from normsmith.studies.store import Record, Store
from normsmith.studies.trial import Outcome, Trial

LOOK = 1.0
"""Seconds between two looks for results of trials that another study has claimed."""
RENEWALS = 4
"""How often a claim is renewed before it would expire."""
PART = 16
"""Of so many trials that are to do, one is claimed at once: many where they are short, one where few are left."""


class Sharing:
    """The trials of a batch that have no result yet, of which this study runs those that it can claim.

    Iterate over `trials` for the next one to run, and call `tick` often. A trial that another study has claimed is
    waited for: `elsewhere` is told of its result, and where its study gives it up or is killed, it is run here.

    Args:
        store: where results and claims are kept.
        keys: the trials with their keys.
        elsewhere: is called with each trial that another study has run, and its record.
        waiting: is called with the number of trials that others run, once there is nothing to do but wait for them.
    """

    def __init__(
        self,
        store: Store,
        keys: Mapping[Trial, str],
        elsewhere: Callable[[Trial, Record], None],
        waiting: Callable[[int], None],
    ) -> None:
        self._store, self._keys, self._elsewhere, self._waiting = store, keys, elsewhere, waiting
        self._owner = new_owner()
        store.claims.drop_dead()
        self._before = store.get(keys.values())  # failures of earlier runs
        self._todo, self._theirs = deque(keys), dict[Trial, None]()
        self._renewed = self._looked = time.monotonic()

    def __enter__(self) -> Sharing:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(StoreError):  # a claim expires anyway
            self._store.claims.release(self._owner)

    def trials(self) -> Iterator[Trial | None]:
        """The trials to run here, each when it is claimed; None while there is nothing to do but wait for others."""
        told = False
        while self._todo or self._theirs:
            if self._todo:
                some = [self._todo.popleft() for _ in range(-(-len(self._todo) // PART))]
                yield from self._claim(some)
            else:
                if not told:
                    self._waiting(len(self._theirs))
                    told = True
                yield None

    def tick(self) -> None:
        """Renew the claims, and look for what others have done, if it is time to."""
        now = time.monotonic()
        if now - self._renewed >= self._store.claims.seconds / RENEWALS:
            self._renewed = now
            self._store.claims.renew(self._owner)
        if self._theirs and now - self._looked >= LOOK:
            self._looked = now
            self._look()

    def give_up(self, trial: Trial) -> None:
        """Leave a trial to others: its result, of which the store does not learn, is this study's alone."""
        self._store.claims.release(self._owner, self._keys[trial])

    def _claim(self, trials: Sequence[Trial]) -> list[Trial]:
        """Claim trials; returns them, less those that another study runs, or has run meanwhile."""
        keys = {self._keys[trial]: trial for trial in trials}
        mine = self._store.claims.take_free(self._owner, keys)
        mine |= {key for key in keys if key not in mine and self._store.claims.take(self._owner, key)}
        records = self._store.get(mine)
        to_run = []
        for key, trial in keys.items():
            record = self._new(records, trial)
            if key not in mine:
                self._theirs[trial] = None
            elif record is None:
                to_run.append(trial)
            else:
                self._store.claims.release(self._owner, key)
                self._elsewhere(trial, record)
        return to_run

    def _look(self) -> None:
        """Take the results of others, and take back what nobody claims any more."""
        self._store.claims.drop_dead()
        keys = [self._keys[trial] for trial in self._theirs]
        held = self._store.claims.held(
            keys
        )  # before the records: a study puts its record and drops its claim at once
        records = self._store.get(keys)
        for trial in list(self._theirs):
            record = self._new(records, trial)
            if record is not None:
                self._elsewhere(trial, record)
            elif self._keys[trial] not in held:
                self._todo.append(trial)
            else:
                continue
            del self._theirs[trial]

    def _new(self, records: Mapping[str, Record], trial: Trial) -> Record | None:
        """The record of a trial, if it is a result or newer than this batch."""
        record = records.get(self._keys[trial])
        if record is None or Outcome.of(record).measured or record != self._before.get(record.key):
            return record
        return None
