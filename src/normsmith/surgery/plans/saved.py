"""Saved plans: their format, and what reading somebody's text may raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from normsmith._text import error_text
from normsmith.errors import NormsmithError, SurgeryError

FORMAT = 1
"""Of saved plans: raised whenever one that was written before would be read as something else."""


@contextmanager
def refusing(expected: str) -> Iterator[None]:
    """A block that reads somebody's text: whatever it raises that is no error of normsmith becomes a SurgeryError."""
    try:
        yield
    except NormsmithError:
        raise
    except Exception as error:
        raise SurgeryError(f"{expected}: {error_text(error)[:300]}") from error


def check_format(read: Any) -> None:
    """Raise SurgeryError for a plan that another version of normsmith has saved in another form."""
    if not (isinstance(read, dict) and "operation" in read):
        return
    written = read.get("format")
    if type(written) is not int or written != FORMAT:
        got = "one without a format" if written is None else f"format {written!r}"[:100]
        raise SurgeryError(
            f"expected a saved plan of format {FORMAT}, got {got}: another version of normsmith wrote it; make the "
            "plan again with this one"
        )
