"""What the tests of layers share."""

import sys

import pytest


@pytest.fixture
def unchecked():
    """Let arguments of the wrong type through to the error that users see; under test they meet beartype first."""
    jaxtyping = sys.modules.get("jaxtyping")
    if jaxtyping is None:
        yield
        return
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
