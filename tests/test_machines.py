"""The script that compares verdicts across backends and instruction sets, and the page that it writes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("machines", ROOT / "scripts/machines.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


machines = _script()


def kept(**verdicts: tuple[str, ...]) -> dict[str, Any]:
    """What environments say of the hypotheses a, b, …, as it is kept."""
    names = "abcd"[: max(map(len, verdicts.values()))]
    return {
        "environments": {name: {"backend": name, "instruction set": "AVX2"} for name in verdicts},
        "machine": "2 cores",
        "commit": "abc",
        "hypotheses": [
            {
                "question": "fewer-steps",
                "name": letter,
                "said": {
                    name: {"verdict": said[index], "estimate": "0.5× (0.4× to 0.6×)"}
                    for name, said in verdicts.items()
                    if index < len(said)
                },
            }
            for index, letter in enumerate(names)
        ],
    }


BOTH = kept(
    numba=("holds", "holds", "inconclusive", "does not hold here"),
    reference=("holds", "reversed", "holds"),
)


def test_what_one_leaves_open_contradicts_nothing() -> None:
    verdicts = machines.verdicts_of(BOTH)
    assert machines.differing(verdicts) == [("fewer-steps", "b"), ("fewer-steps", "c")]
    assert machines.contradictions(verdicts) == [("fewer-steps", "b")]
    assert (
        "2 environments say the same of 2; of 1, some decide what others leave open; of 1,"
        in machines.conclusion(BOTH)
    )


def test_the_table_has_what_each_says_of_each() -> None:
    lines = machines.report(BOTH).splitlines()
    assert lines[:2] == ["- numba: numba, AVX2", "- reference: reference, AVX2"]
    head, line, *rows = (each for each in lines if each.startswith("|"))
    assert head == "| question | hypothesis | numba | reference |"
    assert line.count("|") == head.count("|")
    assert rows[1] == "| `fewer-steps` | b | holds, 0.5× (0.4× to 0.6×) | reversed, 0.5× (0.4× to 0.6×) |"
    assert rows[3].endswith("| - |")


def test_the_page_says_what_is_kept() -> None:
    page = machines.PAGE.read_text(encoding="utf-8")
    measured = json.loads(machines.KEPT.read_text(encoding="utf-8"))
    assert machines.with_table(page, measured) == page, "write it anew: python scripts/machines.py --write"
    assert set(measured["environments"]) == set(machines.ENVIRONMENTS)
    assert machines.contradictions(machines.verdicts_of(measured)) == [], "explain it on the page"


@pytest.mark.parametrize("name", machines.ENVIRONMENTS)
def test_environments_have_keys_of_their_own(name: str) -> None:
    """Else one would find the trials of another in its store."""
    own = machines.ENVIRONMENTS[name]
    assert own
    assert all(own != variables for other, variables in machines.ENVIRONMENTS.items() if other != name)
