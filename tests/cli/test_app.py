"""The command as a whole: its version and its help."""

from importlib.metadata import version


def test_the_version(normsmith):
    assert normsmith("--version").out == f"normsmith {version('normsmith')}\n"


def test_help_says_what_is_taken_where_nothing_is_said(normsmith):
    shown = normsmith("study", "--help").out
    for default in ("10 quick, 20 full", "one a core", "the task's", "sqlite:///study.db"):
        assert default in shown
    assert "(batch)" in normsmith("fix", "--help").out
