"""Where the tiny tasks are, and a store in memory."""

from pathlib import Path

import pytest

from normsmith.studies import Store

TINY = Path(__file__).with_name("tiny.py")


@pytest.fixture
def tiny():
    """The words that load a tiny task by its attribute."""
    return lambda attribute="task": f"{TINY}:{attribute}"


@pytest.fixture
def store():
    with Store("sqlite://") as opened:
        yield opened
