"""Sinks: where the trials of a study are shown while it runs. One that fails costs the study nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from normsmith._text import count, error_text
from normsmith.errors import NormsmithError
from normsmith.studies.named_trials import NamedTrial


@runtime_checkable
class Sink(Protocol):
    """Takes trials as they finish; implement it to show them elsewhere.

    A study calls a sink from a thread of its own, one call after the other. `str(sink)` is what messages call it.
    """

    def put(self, trial: NamedTrial) -> None:
        """Take a stored trial. It may come twice, from another study or from the store: then it is there already."""

    def close(self) -> None:
        """There are no more trials."""


class Sinks:
    """Several sinks as a study has them: in a thread beside it, each passed over from its first error on."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = [_Guarded(sink) for sink in sinks]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="normsmith-sinks")

    def __enter__(self) -> Sinks:
        return self

    def __exit__(self, *_: object) -> None:
        for sink in self._sinks:
            self._thread.submit(sink.close)
        self._thread.shutdown(wait=True)

    def put(self, trial: NamedTrial) -> None:
        """Hand a trial to each sink; returns at once."""
        for sink in self._sinks:
            self._thread.submit(sink.put, trial)

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each sink that failed; complete when the block has ended."""
        return tuple(sink.failure for sink in self._sinks if sink.failure)


class _Guarded:
    """A sink whose errors are kept."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._error = ""
        self._missed = 0

    def put(self, trial: NamedTrial) -> None:
        if not self._error:
            self._try(lambda: self._sink.put(trial))
        if self._error:
            self._missed += 1

    def close(self) -> None:
        self._try(self._sink.close)

    @property
    def failure(self) -> str:
        """What went wrong, and how many trials the sink lacks."""
        if not self._error:
            return ""
        return (
            f"The sink {self._sink} failed and lacks {count(self._missed, 'trial')}, which are in the store: "
            f"{self._error.rstrip('.')}. `normsmith export` adds them."
        )

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - it may raise anything, and costs no trial
            said = str(error) if isinstance(error, NormsmithError) else error_text(error)
            self._error = self._error or said
