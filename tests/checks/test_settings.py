"""Settings of checks in pyproject.toml."""

from __future__ import annotations

import pytest
from torch import nn

from normsmith.checks import Finding, Fix
from normsmith.checks.settings import Settings, find_settings, read_settings
from normsmith.errors import InputError

GOOD = """
[tool.normsmith]
select = ["NS2", "stale-statistics"]
ignore = ["NS204"]
level = "fast"

[tool.normsmith.per-module-ignores]
"backbone.*" = ["NS4", "inverted-momentum"]
"head" = []
"""


def finding(path, code, also=()):
    return Finding(path, "is so", "because", Fix("mend"), code=code, also=also)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "pyproject.toml"


def test_all_is_read(file):
    file.write_text(GOOD)
    settings = read_settings(file)
    assert (settings.select, settings.ignore) == (("NS2", "stale-statistics"), ("NS204",))
    assert settings.level == "fast"
    assert settings.file == file


@pytest.mark.parametrize(
    ("path", "code", "also", "suppressed"),
    [
        ("backbone.1", "NS404", (), True),
        ("backbone.a.b", "NS201", (), True),
        ("backbone.1", "NS204", (), False),
        ("backbone", "NS404", (), False),
        ("head", "NS404", (), False),
        ("shared", "NS404", ("backbone.2",), True),
    ],
)
def test_findings_are_suppressed_by_globs(file, path, code, also, suppressed):
    file.write_text(GOOD)
    assert read_settings(file).suppresses(finding(path, code, also)) is suppressed


def test_globs_that_fit_no_module_are_known():
    settings = Settings(per_module_ignores={"0": frozenset(), "backbon.*": frozenset(), "*": frozenset()})
    assert settings.without_module(nn.Sequential(nn.ReLU())) == ["backbon.*"]


def test_the_nearest_file_that_has_settings_counts(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.normsmith]\nlevel = "deep"\n')
    (inner / "pyproject.toml").write_text("[tool.other]\n")
    assert find_settings(inner).level == "deep"
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.normsmith]\n")
    assert find_settings(inner) == Settings(file=tmp_path / "a" / "pyproject.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tool", "cannot be read"),
        ("tool = 3\n[x]\n", None),
        ("[tool]\nnormsmith = 3", "expected a table"),
        ("[tool.normsmith]\nselct = []", "did you mean select?"),
        ('[tool.normsmith]\nselect = "NS4"', "select: expected a list"),
        ("[tool.normsmith]\nignore = [404]", "ignore: expected a list"),
        ('[tool.normsmith]\nselect = ["stale-statistic"]', "did you mean stale-statistics?"),
        ('[tool.normsmith]\nselect = [""]', "no rule is called ''"),
        ('[tool.normsmith]\nlevel = "deap"', "did you mean deep?"),
        ("[tool.normsmith]\nlevel = 3", "level: expected one of"),
        ("[tool.normsmith]\nper-module-ignores = []", "per-module-ignores: expected a table"),
        ('[tool.normsmith.per-module-ignores]\n"a.*" = ["NS999"]', "a.*: no rule is called 'NS999'"),
    ],
)
def test_what_is_wrong_is_refused_with_the_file_and_the_nearest(file, text, says):
    file.write_text(text)
    if says is None:
        assert read_settings(file) is None
        return
    with pytest.raises(InputError) as refused:
        read_settings(file)
    assert says in str(refused.value)
    assert str(file) in str(refused.value)
