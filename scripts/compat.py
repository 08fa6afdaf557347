#!/usr/bin/env python3
"""Run the tests with another torch, or another Python, and keep what ran in docs/reference/versions.json.

    make compat TORCH=2.6.0                              in .compat/py3.11-torch2.6.0, with `python3`
    make compat TORCH=2.13.0 PYTHON=/usr/bin/python3.13  in .compat/py3.13-torch2.13.0
    make compat TORCH=2.6.0 PARTS="tests/layers tests/ops"   only these; the row says so
    python scripts/compat.py --table                     write the table of docs/reference/versions.md from the file

Everything but torch, and what this torch pins itself, is installed as constraints.txt says. Tests that need a browser,
the compiler, or minutes are left out. Each part of the tests runs once for a state of the tree: a run that was stopped
goes on where it was when it is started again. The exit status is 1 where a test failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE, RECORD = ROOT / "docs/reference/versions.md", ROOT / "docs/reference/versions.json"
BEGIN, END = "<!-- from versions.json: scripts/compat.py --table -->", "<!-- end of the table -->"
SELECTED = "not compiles and not browser and not full"
LOOSE = ("torch", "triton", "monai")
"""Packages whose version follows from torch's: torch itself, Triton, and what asks for a torch of its own choice."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("torch", nargs="?", help="version of torch, such as 2.6.0")
    parser.add_argument("--python", default="python3", help="interpreter that a new environment is made with")
    parser.add_argument("--workers", default="2", help="processes that run tests")
    parser.add_argument("--parts", nargs="*", default=[], help="which parts of the tests; by default all")
    parser.add_argument("--table", action="store_true", help="write the table from the file, and stop")
    arguments = parser.parse_args()
    if arguments.torch is not None:
        environment = build(arguments.torch, arguments.python)
        run = test(environment, arguments.workers, arguments.parts)
        runs = json.loads(RECORD.read_text(encoding="utf-8"))
        RECORD.write_text(json.dumps(merged(runs, run), indent=2) + "\n", encoding="utf-8")
    elif not arguments.table:
        parser.error("which torch? make compat TORCH=2.6.0")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), RECORD), encoding="utf-8")
    return 1 if arguments.torch is not None and run["failed"] else 0


def build(torch: str, python: str) -> Path:
    """An environment with a torch and everything that the tests need; one that is complete is kept."""
    version = output(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    environment = ROOT / ".compat" / f"py{version}-torch{torch}"
    constraints, stamp = environment / "constraints.txt", environment / ".complete"
    asked = digest((ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes())
    if stamp.exists() and stamp.read_text(encoding="utf-8") == asked:
        return environment
    say(f"building {environment.relative_to(ROOT)} (minutes; only when pyproject or constraints change)")
    if not (environment / "bin/python").exists():
        subprocess.run([python, "-m", "venv", environment], check=True)
    constraints.write_text("", encoding="utf-8")
    pip(environment, "--upgrade", "pip>=25.1")
    say(f"installing torch {torch}")
    pip(environment, f"torch=={torch}")
    required = output(
        environment / "bin/python",
        "-c",
        "from importlib.metadata import requires; print(*requires('torch'), sep='\\n')",
    )
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints.write_text(
        "\n".join(without(pins, [*LOOSE, *pinned(required.splitlines())])) + "\n", encoding="utf-8"
    )
    say("installing everything else")
    pip(
        environment,
        f"torch=={torch}",
        "--editable",
        f"{ROOT}[study]",
        "--group",
        f"{ROOT / 'pyproject.toml'}:dev",
    )
    stamp.write_text(asked, encoding="utf-8")
    return environment


def pinned(requirements: Iterable[str]) -> list[str]:
    """The packages of which torch asks for one version alone."""
    return [match[1] for line in requirements if (match := re.match(r"([\w.-]+)\s*\(?==", line))]


def without(pins: Iterable[str], names: Iterable[str]) -> list[str]:
    """The pins but for those of some packages."""
    left_out = {canonical(name) for name in names}
    return [pin for pin in pins if canonical(pin.partition("==")[0]) not in left_out]


def canonical(name: str) -> str:
    """The name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def pip(environment: Path, *arguments: str) -> None:
    """Install with the environment's constraints in the place of those that pip may be set to use elsewhere."""
    command: list[str | Path] = [
        environment / "bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *arguments,
    ]
    subprocess.run(
        command, check=True, env=os.environ | {"PIP_CONSTRAINT": str(environment / "constraints.txt")}
    )


def test(environment: Path, workers: str, wanted: Iterable[str]) -> dict[str, Any]:
    """Run each wanted part of the tests, unless it ran on this state of the tree, and count the outcomes."""
    state = state_of_tree()
    results = environment / "results" / state
    results.mkdir(parents=True, exist_ok=True)
    every, wanted = parts(), list(wanted)
    if unknown := set(wanted) - set(every):
        raise SystemExit(f"normsmith: expected parts among {', '.join(every)}, got {', '.join(unknown)}")
    todo = wanted or every
    for number, part in enumerate(todo, 1):
        file = results / f"{part.replace('/', '-')}.xml"
        if file.exists():
            say(f"{number}/{len(todo)} {part}: ran before on this tree")
        else:
            began = time.monotonic()
            say(f"{number}/{len(todo)} {part}")
            run_part(environment, part, workers, file)
            say(f"{number}/{len(todo)} {part}: {sentence(count([file]))}, {time.monotonic() - began:.0f} s")
    files = [results / f"{part.replace('/', '-')}.xml" for part in todo]
    outcomes = count(files)
    say(f"{environment.name}: {sentence(outcomes)}")
    for test_id in failures(files):
        say(f"  failed: {test_id}")
    commit = output("git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD")
    changed = output(
        "git", "-C", str(ROOT), "status", "--porcelain", "--", "src", "tests", "examples", "pyproject.toml"
    )
    return {
        **versions(environment),
        "machine": f"{platform.system()} {platform.machine()}",
        "date": date.today().isoformat(),
        "commit": commit + (" and changes" if changed else ""),
        "parts": ", ".join(wanted) or "all",
        **{outcome: outcomes[outcome] for outcome in ("passed", "failed", "skipped")},
    }


def parts() -> list[str]:
    """What runs in a process of its own each: folders of tests, single files together, examples in docstrings."""
    folders = [
        f"tests/{path.name}" for path in sorted((ROOT / "tests").iterdir()) if any(path.rglob("test_*.py"))
    ]
    return [*(folder for folder in folders if folder != "tests/docs"), "tests/test_*.py", "src", "examples"]


def run_part(environment: Path, part: str, workers: str, file: Path) -> None:
    """Run one part; what comes out stands in a file that is there only when the run came to its end."""
    paths = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(part))
    unfinished = file.with_suffix(".unfinished")
    command: list[str | Path] = [
        environment / "bin/python",
        "-m",
        "pytest",
        "-q",
        "-m",
        SELECTED,
        "-n",
        workers,
        "--junitxml",
        unfinished,
    ]
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    with (environment / f"{file.stem}.log").open("w", encoding="utf-8") as log:
        code = subprocess.run(
            [*command, *paths],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": path},
            stdout=log,
            stderr=log,
            check=False,
        ).returncode
    if code not in (0, 1, 5):  # passed, failed, nothing selected
        raise SystemExit(
            f"normsmith: pytest ended with {code} in {part}; see {environment / (file.stem + '.log')}"
        )
    unfinished.rename(file)


def count(files: Iterable[Path]) -> Counter[str]:
    """How many tests passed, failed and were skipped, by the files that pytest wrote."""
    return Counter(outcome for file in files for _, outcome in outcomes_in(file))


def failures(files: Iterable[Path]) -> list[str]:
    """The tests that failed."""
    return [test_id for file in files for test_id, outcome in outcomes_in(file) if outcome == "failed"]


def outcomes_in(file: Path) -> Iterable[tuple[str, str]]:
    """Each test in a file that pytest wrote, and what became of it."""
    for case in ET.parse(file).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        yield f"{case.get('classname')}::{case.get('name')}", outcome


def sentence(outcomes: Counter[str]) -> str:
    """The counts in words."""
    return f"{outcomes['passed']} passed, {outcomes['failed']} failed, {outcomes['skipped']} skipped"


def versions(environment: Path) -> dict[str, str]:
    """The versions that took part."""
    code = (
        "import json, platform, torch, numpy, numba; print(json.dumps({'python': platform.python_version(), "
        "'torch': torch.__version__, 'numpy': numpy.__version__, 'numba': numba.__version__}))"
    )
    found: dict[str, str] = json.loads(output(environment / "bin/python", "-W", "ignore", "-c", code))
    return found


def state_of_tree() -> str:
    """A short name for what is tested: sources, tests and settings, committed or not."""
    listed = output(
        "git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "src", "tests", "examples"
    )
    files = sorted(ROOT / name for name in [*listed.splitlines(), "pyproject.toml", "constraints.txt"])
    return digest(b"".join(str(file).encode() + file.read_bytes() for file in files if file.is_file()))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def merged(runs: list[dict[str, Any]], run: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs with a new one in the place of that of the same torch and Python, in order."""
    others = [other for other in runs if key(other) != key(run)]
    return sorted([*others, run], key=key)


def key(run: dict[str, Any]) -> tuple[list[int], list[int]]:
    """By which runs are the same and ordered: the numbers of torch and of Python, without their builds."""
    torch, python = run["torch"].partition("+")[0], run["python"]
    return [int(part) for part in torch.split(".")[:3]], [int(part) for part in python.split(".")[:2]]


def with_table(page: str, record: Path) -> str:
    """A page with the table of the runs between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"normsmith: expected the marks {BEGIN!r} and {END!r} in {PAGE.name}")
    return f"{before}{BEGIN}\n\n{table(json.loads(record.read_text(encoding='utf-8')))}\n{END}{after}"


def table(runs: list[dict[str, Any]]) -> str:
    """The runs as rows."""
    columns = (
        "torch",
        "python",
        "numpy",
        "numba",
        "machine",
        "date",
        "commit",
        "parts",
        "passed",
        "failed",
        "skipped",
    )
    heads = (
        "torch",
        "Python",
        "numpy",
        "numba",
        "machine",
        "on",
        "commit",
        "parts",
        "passed",
        "failed",
        "skipped",
    )
    rows = [heads, ["---"] * len(heads), *([run[column] for column in columns] for run in runs)]
    return "".join(f"| {' | '.join(str(cell) for cell in row)} |\n" for row in rows)


def output(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def say(what: str) -> None:
    print(f"normsmith: {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
