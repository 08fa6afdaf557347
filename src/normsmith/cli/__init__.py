"""The command line: words on a terminal → one of the floors below."""

import sys

from normsmith._extras import imports_of_extra
from normsmith.cli.streams import Unread, open_standard
from normsmith.errors import NormsmithError

__all__ = ["main"]


def main() -> None:
    """Run `normsmith`; a user's mistake is one line on standard error and exit code 2."""
    open_standard()
    try:
        with imports_of_extra("study", "the normsmith command"):
            from normsmith.cli.app import app
        app()
    except NormsmithError as error:
        Unread("stderr").write(f"error: {error}\n")
        sys.exit(2)
