"""Files that code runs are noted, whatever way it loads them; files that it only reads are not."""

import os
import subprocess
import sys

import pytest

FAR = "WIDTH = 3\n"


def noted(tmp_path, code):
    """The names of the user's files that `code` ran, in a process that watches itself."""
    (tmp_path / "far.py").write_text(FAR)
    (tmp_path / "data.txt").write_text("1 2 3")
    script = (
        "import importlib, runpy, sys\nfrom pathlib import Path\nimport torch, dataclasses\n"
        "from normsmith.tasks.executed import executed, watch\n"
        f"sys.path.append({str(tmp_path)!r}); folder = Path({str(tmp_path)!r})\n"
        f"watch(); watch()\n{code}\nprint(*sorted(path.name for path in executed()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, check=True
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize(
    "code",
    [
        "import far",
        "importlib.import_module('f' + 'ar')",
        "exec(open(folder / 'far.py').read())",
        "exec((folder / 'far.py').read_bytes())",
        "exec(compile('WIDTH = 2', 'far.py', 'exec'))",
        "runpy.run_path('far.py')",
        "import far\nimportlib.reload(far)",
    ],
)
def test_files_that_run_are_noted(tmp_path, code):
    assert noted(tmp_path, code) == ["far.py"]


def test_modules_that_python_has_compiled_before_are_noted(tmp_path):
    assert noted(tmp_path, "import far") == noted(tmp_path, "import far") == ["far.py"]


@pytest.mark.parametrize(
    "code",
    [
        "(folder / 'data.txt').read_text()",
        "(folder / 'far.py').read_text()",
        "import json, sklearn, normsmith.studies",
        "eval('1 + 1'); dataclasses.make_dataclass('A', ['x'])",
    ],
)
def test_files_that_are_read_and_libraries_are_not(tmp_path, code):
    assert noted(tmp_path, code) == []
