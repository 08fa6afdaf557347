"""The head of a Ray cluster: it is looked at, since Ray ends whatever process has lost it, and says nothing."""

from __future__ import annotations

import socket
import time

from normsmith.errors import StudyError

LOOK = 2.0
"""Seconds between two looks at the head."""
GONE_SECONDS = 20.0
"""How long a head may be away: less than the minute after which Ray ends the processes of its cluster."""
ANSWER_SECONDS = 2.0
"""How long it may take to answer."""


class Head:
    """The head of the cluster at `address`, as host:port."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._looked = self._answered = time.monotonic()

    def check(self) -> None:
        """Look at the head, if it is time to.

        Raises:
            StudyError: for a while now nobody has answered there.
        """
        if time.monotonic() - self._looked < LOOK:
            return
        answers = self._answers()
        self._looked = time.monotonic()
        if answers:
            self._answered = self._looked
        elif self._looked - self._answered >= GONE_SECONDS:
            raise StudyError(
                f"expected the head of the Ray cluster at {self._address}, got no answer for {GONE_SECONDS:g} s: it "
                "was stopped, or its machine was lost; finished trials are stored: start a cluster again, and the same "
                "command goes on from them"
            )

    def _answers(self) -> bool:
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
        except OSError:
            return False
        return True
