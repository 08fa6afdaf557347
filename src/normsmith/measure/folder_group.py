"""Parties that exchange what they measured by files in a shared folder, where no network connects them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from normsmith._choices import is_number
from normsmith._files import explained, replacing
from normsmith._text import error_text
from normsmith.errors import InputError, SyncError

_T = TypeVar("_T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHORTEST_WAIT, _LONGEST_WAIT = 0.01, 1.0


class FolderGroup:
    """Parties that measure together by way of files in a folder that all of them see: give it as `group=`.

    In each round every party writes a file with the moments that it measured, waits for the files of all others, and
    reads them; all then merge the same numbers. What leaves a party are counts, means and sums of squares for each
    channel, as text (JSON); no data, and no code. A file appears whole or not at all.

    The first round tells the members' models apart: with another structure, other weights or other settings of the
    call than the others' nobody takes part. A party that was stopped starts again with the same call, reads what it
    wrote itself in earlier rounds, and goes on where it was. So one folder is for one exchange; the next one needs an
    empty folder.

    Args:
        folder: the shared folder; it is made where there is none.
        name: that of this party, one of the members.
        members: the names of all parties, in one order for all.
        timeout: seconds to wait for the files of the others in a round.

    Raises:
        InputError: names that are no names of files, are there twice, or do not include this party's; a timeout that
            is not above 0.

    >>> FolderGroup("exchange", "clinic-a", ["clinic-a", "clinic-b"], timeout=600)
    FolderGroup('exchange', 'clinic-a', members=('clinic-a', 'clinic-b'), timeout=600)
    """

    def __init__(
        self, folder: str | Path, name: str, members: Sequence[str], *, timeout: float = 3600.0
    ) -> None:
        if not isinstance(folder, (str, PathLike)):
            raise InputError(f"folder: expected the path of a folder, got {folder!r}")
        if (
            isinstance(members, str)
            or not isinstance(members, Sequence)
            or not 0 < len({str(member).casefold() for member in members}) == len(members)
        ):
            raise InputError(f"members: expected the names of all parties, each once, got {members!r}")
        self.folder, self.name, self.members, self.timeout = Path(folder), name, tuple(members), timeout
        for member in self.members:
            if not (isinstance(member, str) and _NAME.fullmatch(member)):
                raise InputError(
                    f"members: expected names of letters, digits, dots and dashes, got {member!r}"
                )
        if name not in self.members:
            raise InputError(f"name: expected one of the members {', '.join(self.members)}, got {name!r}")
        if not (is_number(timeout) and timeout > 0):
            raise InputError(f"timeout: expected seconds above 0, got {timeout!r}")

    def __repr__(self) -> str:
        return f"FolderGroup({str(self.folder)!r}, {self.name!r}, members={self.members!r}, timeout={self.timeout!r})"


class FolderExchange:
    """One exchange of a `FolderGroup`, round by round.

    Args:
        group: the parties and their folder.
        model: what tells this party's call from others, name → digest, which must be the same for all.

    Raises:
        SyncError: another party has another model, or did not write in time; the folder is of another exchange.
    """

    def __init__(self, group: FolderGroup, model: Mapping[str, str]) -> None:
        self._group, self._round = group, 0
        with explained(self._failure(group.folder)):
            group.folder.mkdir(parents=True, exist_ok=True)
        mine = {"(members)": ", ".join(group.members), **model}
        own = self._read(0, group.name)
        if own is not None and own.get("value") != mine:
            raise SyncError(
                f"folder: expected an exchange with this model in {group.folder}, found one in which {group.name} had "
                f"another, {_difference(own.get('value'), mine)}; take an empty folder for each exchange"
            )
        for member, theirs in zip(group.members, self.gather(lambda: mine, _same, _same), strict=True):
            if theirs != mine:
                raise SyncError(
                    f"expected the same model and settings at all parties, got others at {member}: "
                    f"{_difference(theirs, mine)}; send one state dict to all, and take an empty folder"
                )

    def gather(
        self,
        work: Callable[[], _T],
        write: Callable[[_T], Any],
        read: Callable[[Any], _T],
        *,
        again: bool = False,
    ) -> list[_T]:
        """One round: what every party sends, in the order of the members.

        Args:
            work: makes what this party sends. It is not called where an earlier run has sent that already.
            write, read: turn it into what JSON holds, and back.
            again: call `work` in any case, for what else it does; what was sent stays what was sent.

        Raises:
            SyncError: another party failed, or did not write in time; a file cannot be read or written.
        """
        group, number = self._group, self._round
        own = self._read(number, group.name)
        is_sent = own is not None and "value" in own
        if again or not is_sent:
            try:
                value = work()
            except Exception as error:
                self._write(number, {"error": error_text(error)})
                raise
            if not is_sent:
                self._write(number, {"value": write(value)})
        self._round += 1
        return [self._decoded(number, member, text, read) for member, text in self._all(number).items()]

    def _all(self, number: int) -> dict[str, Any]:
        """What all parties wrote in a round, as soon as they have."""
        group, wait = self._group, _SHORTEST_WAIT
        until = time.monotonic() + group.timeout
        while True:
            files = {member: self._read(number, member) for member in group.members}
            failed = {name: file["error"] for name, file in files.items() if file and "error" in file}
            if failed:
                name, error = next(iter(failed.items()))
                raise SyncError(
                    f"expected all {len(files)} parties to finish round {number}, {name} had {error}; start {name} "
                    "again, then the others: all go on from this round"
                )
            missing = [name for name, file in files.items() if file is None]
            if not missing:
                return {name: file["value"] for name, file in files.items() if file is not None}
            if time.monotonic() > until:
                raise SyncError(
                    f"expected files of all {len(files)} parties for round {number} in {group.folder}, got none of "
                    f"{', '.join(missing)} within {group.timeout:g} s; every party must make this call, and one that "
                    "was stopped goes on from its last round"
                )
            time.sleep(wait)
            wait = min(wait * 1.5, _LONGEST_WAIT)

    def _decoded(self, number: int, member: str, value: Any, read: Callable[[Any], _T]) -> _T:
        try:
            return read(value)
        except Exception as error:
            raise SyncError(
                f"{self._path(number, member)}: expected what {member} measured, got something else: "
                f"{error_text(error)[:300]}"
            ) from error

    def _path(self, number: int, member: str) -> Path:
        return self._group.folder / f"round-{number:03}-{member}.json"

    def _read(self, number: int, member: str) -> dict[str, Any] | None:
        """The file of a party; None where it is not there, or not whole, as in folders that are synchronised."""
        path = self._path(number, member)
        try:
            with explained(self._failure(path)):
                read = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValueError:
            return None
        return read if isinstance(read, dict) and read.keys() & {"value", "error"} else None

    def _write(self, number: int, content: Mapping[str, Any]) -> None:
        path = self._path(number, self._group.name)
        with replacing(path, self._failure(path)) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")

    @staticmethod
    def _failure(path: Path) -> Callable[[str], SyncError]:
        return lambda reason: SyncError(f"{path}: expected a folder to read and write, got: {reason}")


def _difference(theirs: Any, mine: Mapping[str, str]) -> str:
    """The first name under which two models differ, in words."""
    if not isinstance(theirs, dict):
        return "which is not described"
    names = [*mine, *(name for name in theirs if name not in mine)]
    first = next(name for name in names if theirs.get(name) != mine.get(name))
    if theirs.keys() != mine.keys():
        first = next((name for name in names if name not in theirs or name not in mine), first)
        return f"{first} is in one of the two only"
    return f"{first} differs"


def _same(digests: dict[str, str]) -> dict[str, str]:
    return digests
