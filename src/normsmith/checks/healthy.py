"""A check as an assertion, for tests of models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from normsmith.checks.check import check
from normsmith.checks.findings import Findings
from normsmith.checks.settings import Settings


def assert_healthy(
    model: nn.Module, batches: Iterable[Any] | None = None, *, settings: Settings | None = None, **given: Any
) -> Findings:
    """Check the normalization of a model; fail where a rule has an error or a warning, or no rule could be run.

    Args:
        model, batches: as `normsmith.check` takes them.
        settings: those of a project; what is given beside them replaces them.
        given: anything else that `normsmith.check` takes, as `loss`, `optimizer`, `level` or `ignore`.

    Returns:
        The findings, for further looks: information, and what was not run.

    Raises:
        AssertionError: with all findings as its text.

    >>> assert_healthy(nn.Sequential(nn.BatchNorm1d(2))).passed()
    True
    >>> assert_healthy(nn.Sequential(nn.BatchNorm1d(2, momentum=0.99)))
    Traceback (most recent call last):
    AssertionError: 1 warning...
    """
    __tracebackhide__ = True
    settings = settings or Settings()
    own: dict[str, Any] = {"select": settings.select, "ignore": settings.ignore}
    if settings.level is not None:
        own["level"] = settings.level
    findings = check(model, batches, **{**own, **given}).without(settings.suppresses)
    if not findings.passed():
        raise AssertionError(f"{findings.summary}\n{findings}")
    return findings
