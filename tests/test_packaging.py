"""A wheel from a clean tree is whole, and works with torch and numpy alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "normsmith"

ONLY_WHAT_IT_NEEDS = """
import re, sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

def closure(name, seen):
    name = re.match(r"[\\w.-]+", name)[0].lower().replace("_", "-")
    if name not in seen:
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            return
        seen.add(name)
        for requirement in needed:
            if "extra ==" not in requirement:
                closure(requirement, seen)

allowed = set()
closure("torch", allowed)
closure("numpy", allowed)
closure("numba", allowed)
outside = {
    package for package, owners in packages_distributions().items()
    if not any(owner.lower().replace("_", "-") in allowed for owner in owners)
} - {"normsmith"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in outside:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
"""Makes every installed package unimportable, apart from torch, numpy and what those two require."""

HEAVY = (
    "scipy",
    "sklearn",
    "sqlalchemy",
    "jinja2",
    "markupsafe",
    "rich",
    "typer",
    "pydantic",
    "numba",
    "loky",
    "cloudpickle",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of what the package is made of, without caches and leftovers of builds."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", "dist", str(tree)],
        cwd=tree,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (built,) = (tree / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing in it but the installed wheel."""
    target = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile",
         "--disable-pip-version-check", "--target", str(target), str(wheel)],
        check=True,
        timeout=120,
    )  # fmt: skip
    return target


def run(code: str, site: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code with the packages in `site` before all others."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(site), "PATH": ""},
        cwd=site,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    wanted = {
        str(path.relative_to(SOURCE.parent))
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } | {"pytest_normsmith.py"}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licensed = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
    assert names == wanted
    assert len(licensed) == 1
    assert "normsmith/py.typed" in names
    assert any(name.endswith(".html.j2") for name in names)
    assert not any("test" in name.split("/")[0] for name in names - {"pytest_normsmith.py"})


def test_installs_the_command(installed: Path) -> None:
    (record,) = installed.glob("normsmith-*.dist-info/entry_points.txt")
    assert "normsmith = normsmith.cli:main" in record.read_text(encoding="utf-8")


WITHOUT_EXTRAS = """
import normsmith, normsmith.layers, normsmith.surgery, normsmith.tasks, torch

layer = normsmith.layers.BatchNorm1d(3)
assert layer(torch.randn(8, 3)).shape == (8, 3)
print(normsmith.__file__)
try:
    normsmith.tasks.load("digits-mlp")
except normsmith.errors.MissingExtraError as error:
    print(error)
"""


def test_layers_need_torch_numpy_and_numba_alone_and_digits_name_the_extra(installed: Path) -> None:
    done = run(ONLY_WHAT_IT_NEEDS + WITHOUT_EXTRAS, installed)
    assert done.returncode == 0, done.stderr
    file, missing = done.stdout.splitlines()
    assert file.startswith(str(installed))
    assert "normsmith[study]" in missing


def test_command_names_the_missing_extra_in_one_line(installed: Path) -> None:
    done = run(f"{ONLY_WHAT_IT_NEEDS}\nfrom normsmith.cli import main\nmain()", installed)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "normsmith[study]" in line


@pytest.mark.parametrize("package", ["normsmith.report", "normsmith.studies", "normsmith.studies.names"])
def test_packages_of_an_extra_name_it_in_one_line(installed: Path, package: str) -> None:
    done = run(f"{ONLY_WHAT_IT_NEEDS}\nimport {package}", installed)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("normsmith.errors.MissingExtraError: normsmith.")
    assert last.endswith("pip install 'normsmith[study]'")
    assert "ModuleNotFoundError" not in done.stderr


def test_import_pulls_in_no_extra(installed: Path) -> None:
    """Where everything is installed, `import normsmith` still loads none of it (beyond what torch loads)."""
    code = (
        f"import sys, numpy, torch\nheavy, before = {HEAVY!r}, set(sys.modules)\n"
        "import normsmith\nprint(sorted(set(heavy) & (set(sys.modules) - before)))\n"
    )
    done = run(code, installed)
    assert done.stdout.strip() == "[]", done.stderr
