"""How a study runs is checked before it does."""

import pytest

from normsmith.errors import StudyError
from normsmith.studies import Settings


@pytest.mark.parametrize("bad", [{"seeds": 0}, {"jobs": 0}, {"steps": 0}, {"timeout": 0.00001}])
def test_settings_are_checked(bad):
    with pytest.raises(StudyError, match=next(iter(bad))):
        Settings(**bad)
