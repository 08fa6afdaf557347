"""The command line: words on a terminal → one of the floors below."""

import os
import sys
import threading

from normsmith._extras import imports_of_extra
from normsmith.cli.prints import leave_behind
from normsmith.cli.streams import Unread, open_standard
from normsmith.errors import NormsmithError

__all__ = ["main"]


def main() -> None:
    """Run `normsmith`; a user's mistake is one line on standard error and exit code 2."""
    open_standard()
    before = set(threading.enumerate())
    try:
        _run()
    except SystemExit as ended:
        if leave_behind(before):
            os._exit(ended.code if isinstance(ended.code, int) else ended.code is not None)
        raise


def _run() -> None:
    try:
        with imports_of_extra("study", "the normsmith command"):
            from normsmith.cli.app import app
        app()
    except NormsmithError as error:
        Unread("stderr").write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:  # while modules are still imported; a study says itself what is kept
        Unread("stderr").write("interrupted\n")
        sys.exit(130)
