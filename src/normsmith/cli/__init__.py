"""The command line: words on a terminal → one of the floors below."""

import sys

from normsmith.errors import NormsmithError

__all__ = ["main"]


def main() -> None:
    """Run `normsmith`; a user's mistake is one line on standard error and exit code 2."""
    try:
        from normsmith.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("normsmith"):
            raise
        sys.exit(f"error: the normsmith command needs {error.name}: pip install 'normsmith[study]'")
    try:
        app()
    except NormsmithError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
