"""Where the tiny tasks are."""

from pathlib import Path

import pytest

TINY = Path(__file__).parents[1] / "studies" / "tiny.py"


@pytest.fixture
def tiny():
    return lambda attribute="task": f"{TINY}:{attribute}"
