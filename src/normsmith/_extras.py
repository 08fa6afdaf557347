"""Libraries that come with an extra only: where one is missing, the error names the extra in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from normsmith.errors import MissingExtraError

Extra = Literal["images", "mlflow", "parquet", "postgres", "ray", "study", "tensorboard"]
"""The names of the extras, as in `pip install 'normsmith[study]'`."""


@contextmanager
def imports_of_extra(extra: Extra, user: str) -> Iterator[None]:
    """Turn an import within the block that fails for a library of an extra into an error that says what to install.

    `user` is what needs the library, in the words of the message. An import of normsmith itself that fails is a
    fault of its own, and stays as it is.

    Raises:
        MissingExtraError: a library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in {"", "normsmith"}:
            raise
        raise MissingExtraError(
            f"{user} needs {library}, which is not installed: pip install 'normsmith[{extra}]'"
        ) from None
