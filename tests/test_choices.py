"""Settings of a few words: another word is refused, with those that are known."""

import pytest

from normsmith._choices import check_choice
from normsmith.errors import InputError


def test_a_known_word_passes():
    check_choice("mode", "fast", ("fast", "exact"))


@pytest.mark.parametrize("value", ["slow", "", None, "FAST"])
def test_any_other_value_is_refused_with_the_known_words(value):
    with pytest.raises(InputError) as caught:
        check_choice("mode", value, ("fast", "exact"))
    assert str(caught.value) == f"mode: expected one of 'fast', 'exact'; got {value!r}"
