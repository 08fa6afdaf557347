"""How a study runs is checked before it does."""

import pytest

from normsmith.errors import StudyError
from normsmith.studies import Settings
from normsmith.studies.settings import seconds_of


@pytest.mark.parametrize(
    "bad",
    [
        {"seeds": 0},
        {"jobs": 0},
        {"steps": 0},
        {"timeout": 0.00001},
        {"budget": 0.0},
        {"budget": 60.0, "seeds": 10},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(StudyError, match=next(iter(bad))):
        Settings(**bad)


@pytest.mark.parametrize("bad", ["30", "m", "half an hour", "1d", "-5m", "1h30", ""])
def test_a_budget_without_a_unit_is_refused_with_what_was_expected(bad):
    with pytest.raises(StudyError, match=r"budget: expected a time with its unit .* such as 90s, 30m, 2h"):
        seconds_of(bad)
