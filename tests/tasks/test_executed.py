"""Files that code runs are noted, whatever way it loads them; files that it only reads are not."""

import dataclasses
import importlib
import os
import runpy
import subprocess
import sys

import pytest
import warm_processes

from normsmith.tasks.executed import executed, watch


def noted(folder, code):
    """The names of the user's files that `code` ran, in a process that watches itself."""
    (folder / "far.py").write_text("WIDTH = 3\n")
    (folder / "data.txt").write_text("1 2 3")
    errors, result = folder / "errors", folder / "result"
    process = warm_processes.process(_note, folder, code, result, errors=errors)
    process.join(120)
    assert process.exitcode == 0, errors.read_text()
    return result.read_text().split()


def _note(folder, code, result):
    os.chdir(folder)
    sys.path.append(str(folder))
    watch()
    watch()
    exec(code, {**{module.__name__: module for module in (dataclasses, importlib, runpy)}, "folder": folder})
    result.write_text(" ".join(sorted(path.name for path in executed())))


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
        "eval('1 + 1'); dataclasses.make_dataclass('A', ['x'])",
    ],
)
def test_files_that_are_read_and_libraries_are_not(tmp_path, code):
    assert noted(tmp_path, code) == []


def test_libraries_are_not_the_users():
    """In a process that has imported none of them."""
    code = "from normsmith.tasks.executed import executed, watch; watch(); import json, sklearn, normsmith.studies; "
    code += "print(len(executed()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
