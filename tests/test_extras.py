"""What is said where the library of an extra is missing."""

import pytest

from normsmith._extras import imports_of_extra
from normsmith.errors import MissingExtraError


def test_a_missing_library_names_itself_who_needs_it_and_the_extra():
    with pytest.raises(MissingExtraError) as raised, imports_of_extra("study", "the report"):
        raise ModuleNotFoundError("No module named 'rich.table'", name="rich.table")
    assert (
        str(raised.value) == "the report needs rich, which is not installed: pip install 'normsmith[study]'"
    )
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("name", ["normsmith.nowhere", None])
def test_a_missing_module_of_normsmith_is_a_fault_and_no_missing_extra(name):
    with pytest.raises(ModuleNotFoundError), imports_of_extra("study", "the report"):
        raise ModuleNotFoundError("broken", name=name)


def test_what_is_installed_is_imported():
    with imports_of_extra("study", "the report"):
        import rich
    assert rich.__name__ == "rich"


def test_other_errors_pass():
    with pytest.raises(ImportError, match="circular"), imports_of_extra("study", "the report"):
        raise ImportError("circular", name="scipy")
