"""What holds for the project as a whole: pins, clean files, public indexes, recipes."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import statistics
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from torch import nn

import normsmith
from normsmith import layers, surgery
from normsmith.studies import every_question, questions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
INDEXES = ["normsmith"] + [
    f"normsmith.{info.name}"
    for info in pkgutil.iter_modules(normsmith.__path__)
    if info.ispkg and info.name != "cli" and not info.name.startswith("_")
]


def requirements() -> list[str]:
    """Everything that pyproject names: to build, to run, every extra and every group."""
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    groups = [line for lines in PROJECT["dependency-groups"].values() for line in lines]
    return [*PROJECT["build-system"]["requires"], *project["dependencies"], *extras, *groups]


@pytest.mark.parametrize("requirement", requirements())
def test_constraints_pin_what_pyproject_names(requirement: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    wanted = Requirement(requirement)
    assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)])


def test_pins_are_in_order_and_single() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = [canonicalize_name(line.partition("==")[0]) for line in lines if not line.startswith("#")]
    assert len(names) == len(set(names))
    assert all("==" in line for line in lines if not line.startswith("#"))


def test_python_that_is_required_is_python_that_is_checked() -> None:
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert PROJECT["tool"]["mypy"]["python_version"] == "3.11"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py311"


def test_changelog_has_an_unreleased_section() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased = re.search(r"^## Unreleased\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert unreleased
    assert re.search(r"^- ", unreleased[1], re.MULTILINE)


MACHINE = re.compile(
    "|".join(
        [
            r"/(?:root|home/\w+|Users/\w+|work)/(?!\.\.\.)",  # somebody's folders
            r"/tmp/\w+_jobs",
            r"\b(?:test\.)?py" + r"pi\.org|python" + r"hosted\.org|conda\." + r"anaconda\.org",  # registries
            r"\b(?:\d{1,3}\.){3}\d{1,3}:\d+",  # a host and its port
        ]
    )
)


def test_machine_pattern_finds_what_it_must() -> None:
    for text in ("/ro" + "ot/x", "/home/" + "me/y", "https://py" + "pi.org/simple", "10.0.0.1" + ":8080"):
        assert MACHINE.search(text), text
    assert not MACHINE.search("src/normsmith/studies/work.py in /usr/bin, version 2.13.0")


def test_no_machine_in_tracked_files() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    found = [
        f"{path.relative_to(ROOT)}: {hit[0]}"
        for path in files
        if path.is_file() and (hit := MACHINE.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert not found


# The public index of each package.


def order(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then functions: as ruff sorts `__all__`."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("package", INDEXES)
def test_public_index_is_sorted_and_complete(package: str) -> None:
    module = importlib.import_module(package)
    names = module.__all__
    assert names == sorted(names, key=order)
    assert len(names) == len(set(names))
    assert all(hasattr(module, name) for name in names)
    bound = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", "normsmith").startswith("normsmith")
    }
    assert bound <= set(names), "imported into the index but not named in __all__"


def modules_of(package: ModuleType) -> list[ModuleType]:
    """Its public modules."""
    return [
        importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
        if not info.name.startswith("_")
    ]


def test_every_layer_is_in_the_public_indexes() -> None:
    defined = {
        name
        for module in modules_of(layers)
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, nn.Module)
        and value.__module__ == module.__name__
        and not name.startswith("_")
        and not name.endswith("Base")
        and value.forward is not nn.Module.forward  # without a forward it is a part of layers
    }
    assert defined
    assert defined <= set(layers.__all__)
    assert defined <= set(normsmith.__all__)


def test_every_public_thing_says_what_it_is() -> None:
    silent = [
        f"{package}.{name}"
        for package in INDEXES
        for name in importlib.import_module(package).__all__
        if callable(value := getattr(importlib.import_module(package), name)) and not inspect.getdoc(value)
    ]
    assert not silent


# Recipes: who adds a unit also adds what goes with it.


def test_every_question_has_its_test_and_its_name() -> None:
    for module in modules_of(questions):
        stem = module.__name__.rpartition(".")[2]
        assert module.QUESTION.name == stem.replace("_", "-")
        assert (ROOT / "tests" / "studies" / "questions" / f"test_{stem}.py").exists(), f"{stem} has no test"
    assert len(every_question()) == len(modules_of(questions))


@pytest.mark.parametrize("package", INDEXES)
def test_every_public_function_and_layer_is_in_a_test(package: str) -> None:
    """Layers by their family: a test may make `BatchNorm` with 1d, 2d and 3d of it."""
    index = importlib.import_module(package)
    units = {
        re.sub(r"[123]d$", "", name)
        for name in index.__all__
        if inspect.isfunction(unit := getattr(index, name))
        or (inspect.isclass(unit) and issubclass(unit, nn.Module))
    }
    files = (path for path in (ROOT / "tests").rglob("*.py") if path.name != "test_project.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert [unit for unit in units if not re.search(rf"\b{unit}", text)] == []


@pytest.mark.parametrize("layer", layers.__all__)
def test_every_layer_is_in_the_pages(layer: str) -> None:
    assert re.search(rf"\b{layer}\b", (ROOT / "docs" / "howto" / "layers.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("layer", layers.__all__)
def test_every_layer_has_a_page_of_its_own(layer: str) -> None:
    """Layers by their family; contexts are on the pages of the layers they serve."""
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "layers").glob("*.md"))
    assert re.search(rf"\b{re.sub(r'^Lazy|[123]d$', '', layer)}", pages)


def test_every_operation_of_surgery_has_a_row_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "surgery.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    operations = [name for name in surgery.__all__ if inspect.isfunction(getattr(surgery, name))]
    assert operations
    assert [name for name in operations if f"`{name}`" not in rows] == []


def test_contributing_names_what_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|docs|scripts|\.ci)/[^`<> ]*|\w+\.(?:md|toml|txt))(?: [^`]*)?`", text)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_names_in_the_recipes_stand_in_the_files_beside_them() -> None:
    """A row that names a file and an identifier such as `TARGETS` or `_Request.plan` is wrong once it is renamed."""
    rows = [
        line for line in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines() if "|" in line
    ]
    seen = 0
    for row in rows:
        code = re.findall(r"`([^`]+)`", row)
        files = [ROOT / word for word in code if word.endswith(".py")]
        text = "\n".join(path.read_text(encoding="utf-8") for path in files)
        for word in code:
            if files and re.fullmatch(r"_?[A-Z]\w+(\.\w+)?", word):
                seen += 1
                for part in word.split("."):
                    assert re.search(rf"\b{part}\b", text), f"{word} is not in {row}"
    assert seen >= 4


# Rooms small enough to know.


def sources() -> list[Path]:
    return sorted((ROOT / "src" / "normsmith").rglob("*.py"))


def is_kernel(path: Path) -> bool:
    """Whether a file holds kernels, which may be longer."""
    return path.parent.name == "kernels" or path.stem.endswith("_kernels")


def test_files_fit_a_reading() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert statistics.median(lengths.values()) <= 130
    assert [str(path) for path, length in lengths.items() if length > 400 and not is_kernel(path)] == []


def length_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from `def` on."""
    assert function.end_lineno is not None
    length = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        length -= first.end_lineno - first.lineno + 1
    return length


def test_functions_fit_a_screen() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sources()
        if not is_kernel(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length_without_docstring(node) > 60
    ]
    assert long == []


# The tests as a map: who looks for the tests of a file finds them under the same name.

TRITON = "Triton's language: the backend contract in tests/ops/gpu/test_kernels.py runs the kernels that it makes up"
WITHOUT_A_MIRROR = {
    "ops/gpu/backward_kernels.py": TRITON,
    "ops/gpu/elements.py": TRITON,
    "ops/gpu/forward_kernels.py": TRITON,
    "ops/gpu/settle.py": TRITON,
    "ops/gpu/tiles.py": TRITON,
}
"""Files with logic that are tested elsewhere, and why."""


def has_logic(code: str) -> bool:
    """Whether a function does anything: one of a docstring alone, or for others to write, does not."""

    def does_something(statement: ast.stmt) -> bool:
        match statement:
            case ast.Expr(ast.Constant()) | ast.Pass():
                return False
            case ast.Raise(ast.Name("NotImplementedError")):
                return False
        return True

    functions = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef))
    return any(does_something(statement) for function in functions for statement in function.body)


def mirrors() -> dict[str, Path]:
    """For each file of the package with logic of its own the file that tests it."""
    package = ROOT / "src" / "normsmith"
    files = (path.relative_to(package) for path in sorted(package.rglob("*.py")))
    return {
        file.as_posix(): ROOT / "tests" / file.parent / f"test_{file.stem.removeprefix('_')}.py"
        for file in files
        if not file.stem.startswith("__") and has_logic((package / file).read_text(encoding="utf-8"))
    }


def test_logic_is_told_from_names_and_forms() -> None:
    assert has_logic("class A:\n    def f(self):\n        return 1")
    assert not has_logic("from a import b\nTABLE = {1: 2}\nclass A(b):\n    x: int")
    assert not has_logic(
        'class A:\n    def f(self):\n        """For others."""\n        raise NotImplementedError'
    )
    assert not has_logic("class A:\n    def f(self) -> int: ...")


def test_every_file_with_logic_has_its_test_file() -> None:
    missing = {file: test for file, test in mirrors().items() if not test.exists()}
    assert missing.keys() - WITHOUT_A_MIRROR.keys() == set()
    assert WITHOUT_A_MIRROR.keys() - missing.keys() == set(), "there is a test file now, or nothing to test"


def test_no_test_file_is_too_long_to_know() -> None:
    lines = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "tests").rglob("*.py")
    }
    assert {file: count for file, count in lines.items() if count > 500} == {}
