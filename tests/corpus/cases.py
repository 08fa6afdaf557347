"""All cases of the corpus, found by walking its folders."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from tests.corpus.case import Case

FOLDERS = ("structure", "configuration", "setup", "statistics", "signal", "healthy")
"""One folder for each family of rules, and one for networks with which nothing is wrong."""


@cache
def by_file() -> dict[str, list[Case]]:
    """The cases of each file, under the file's name such as "setup/eval_leak"."""
    return {
        f"{folder}/{info.name}": [
            value for value in vars(_module(folder, info.name)).values() if isinstance(value, Case)
        ]
        for folder in FOLDERS
        for info in pkgutil.iter_modules([str(Path(__file__).parent / folder)])
    }


def every_case() -> dict[str, Case]:
    """Every case by its name."""
    return {case.name: case for cases in by_file().values() for case in cases}


def healthy() -> dict[str, Case]:
    """The known-good networks: no warning or error may come."""
    return {
        case.name: case for file, cases in by_file().items() if file.startswith("healthy/") for case in cases
    }


def _module(folder: str, name: str):
    return importlib.import_module(f"tests.corpus.{folder}.{name}")
