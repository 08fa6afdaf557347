"""Text that should be a saved plan: of this format, and nothing else is raised than errors of normsmith."""

import pytest

from normsmith.errors import InputError, SurgeryError
from normsmith.surgery.plans.saved import FORMAT, check_format, refusing


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ({"operation": {}}, "got one without a format"),
        (
            {"operation": {}, "format": FORMAT + 1},
            f"expected a saved plan of format {FORMAT}, got format {FORMAT + 1}",
        ),
        ({"operation": {}, "format": True}, "got format True"),
    ],
)
def test_another_format_is_refused(read, said):
    with pytest.raises(SurgeryError, match=said):
        check_format(read)


@pytest.mark.parametrize("read", [{"operation": {}, "format": FORMAT}, {}, [], None])
def test_this_format_and_what_is_no_plan_pass(read):
    check_format(read)


def test_errors_of_others_become_one_of_ours():
    with pytest.raises(SurgeryError, match="expected a plan: KeyError: 'name'"), refusing("expected a plan"):
        raise KeyError("name")
    with pytest.raises(InputError, match="mine"), refusing("expected a plan"):
        raise InputError("mine")
