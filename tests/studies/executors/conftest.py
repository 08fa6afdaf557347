"""Workers that start as they do for users."""

import pytest


@pytest.fixture(autouse=True)
def _workers():
    """In place of those that are there at once."""
