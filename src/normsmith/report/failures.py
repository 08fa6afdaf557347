"""Failures told once: trials of one arm and setting that ended alike are one group."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from normsmith._text import count, cut, ranges
from normsmith.studies.results import Failure, StudyResult

_REASONS = 2  # told; reasons often differ only in a number
_LONGEST_REASON, _LONGEST_NAME = 500, 100  # characters
_ENDINGS = {
    "diverged": "diverged",
    "raised": "raised an error",
    "killed": "was killed",
    "timeout": "ran out of time",
}


@dataclass(frozen=True)
class FailureGroup:
    """Trials of one arm and setting that ended alike."""

    arm: str
    setting: str
    ending: str
    status: str
    trials: int
    seeds: str
    reasons: tuple[str, ...]
    more_reasons: int


def grouped(failures: Iterable[Failure]) -> list[FailureGroup]:
    """Group by how they ended, arm and setting; errors come before divergences, which are results."""
    order = ["raised", "killed", "timeout", "diverged"]

    def key(failure: Failure) -> tuple[int, str, str]:
        return order.index(failure.status), failure.arm, failure.setting

    return [_group(list(group)) for _, group in groupby(sorted(failures, key=key), key=key)]


def summary(failures: Iterable[Failure]) -> str:
    """One sentence on what did not finish: `12 trials diverged, 1 trial raised an error.`"""
    by_status: dict[str, int] = {}
    for failure in failures:
        by_status[failure.status] = by_status.get(failure.status, 0) + 1
    parts = [
        f"{count(n, 'trial')} {_ending(status, n)}" for status in _ENDINGS if (n := by_status.get(status, 0))
    ]
    return ", ".join(parts) + "." if parts else "Every trial ran to its last step."


def nothing_finished(result: StudyResult) -> str:
    """What must be said before anything else, where no trial came to its end; nothing otherwise."""
    if not result.nothing_finished:
        return ""
    first = grouped(result.failures)[0]
    diverged = all(failure.status == "diverged" for failure in result.failures)
    tip = " Smaller learning rates may help." if diverged else ""
    return (
        f"No trial came to its end, so this study says nothing: {summary(result.failures)} "
        f"{first.arm}, {first.setting}: {first.reasons[0].rstrip('.')}.{tip}"
    )


def _group(failures: list[Failure]) -> FailureGroup:
    first = failures[0]
    reasons = tuple(dict.fromkeys(failure.reason for failure in failures))
    return FailureGroup(
        arm=cut(first.arm, _LONGEST_NAME),
        setting=cut(first.setting, _LONGEST_NAME),
        ending=_ending(first.status, len(failures)),
        status=first.status,
        trials=len(failures),
        seeds=ranges([failure.seed for failure in failures]),
        reasons=tuple(cut(reason, _LONGEST_REASON) for reason in reasons[:_REASONS]),
        more_reasons=max(0, len(reasons) - _REASONS),
    )


def _ending(status: str, n: int) -> str:
    ending = _ENDINGS[status]
    return ending.replace("was ", "were ") if n != 1 else ending
