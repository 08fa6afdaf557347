"""The pytest plugin of normsmith: the fixture `assert_healthy`.

It stands outside the package, so that a test session without a model does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from normsmith.checks import Findings


@pytest.fixture
def assert_healthy(pytestconfig: pytest.Config) -> Callable[..., Findings]:
    """`assert_healthy(model, batches, ...)` fails where `normsmith.check` has an error or a warning.

    It takes what `normsmith.check` takes. Settings are those of `[tool.normsmith]` in the project's pyproject.toml.
    """
    from normsmith import checks
    from normsmith.checks.settings import find_settings

    return partial(checks.assert_healthy, settings=find_settings(pytestconfig.rootpath))
