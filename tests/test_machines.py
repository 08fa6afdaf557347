"""The script that compares verdicts across backends and instruction sets tells a contradiction from what is open."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from tests.report import samples

from normsmith.studies.results import Effect, Verdict

ROOT = Path(__file__).parents[1]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("machines", ROOT / "scripts/machines.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


machines = _script()
EFFECT = samples.fewer_steps().effects[0]


def found(**verdicts: tuple[Verdict, ...]) -> dict[str, dict[tuple[str, str], Effect]]:
    """What environments say of the hypotheses a, b, …"""
    return {
        name: {
            ("fewer-steps", letter): EFFECT.model_copy(update={"verdict": verdict})
            for letter, verdict in zip("abcd", said, strict=False)
        }
        for name, said in verdicts.items()
    }


def test_only_what_differs_is_in_the_table() -> None:
    here = (Verdict.HOLDS, Verdict.HOLDS, Verdict.INCONCLUSIVE, Verdict.NOT_HERE)
    there = (Verdict.HOLDS, Verdict.REVERSED, Verdict.HOLDS)
    both = found(numba=here, reference=there)
    assert machines.differing(both) == [("fewer-steps", "b"), ("fewer-steps", "c")]
    assert machines.contradictions(both) == [("fewer-steps", "b")]
    head, line, *rows = machines.table(both).splitlines()
    assert head == "| question | hypothesis | numba | reference |"
    assert line.count("|") == head.count("|")
    assert [row.split(" | ")[1] for row in rows] == ["b", "c"]
    assert "| holds, " in rows[0]
    assert "| reversed, " in rows[0]
    assert (
        "2 environments say the same of 2; of 1, some decide what others leave open; of 1,"
        in machines.conclusion(both)
    )


def test_environments_have_keys_of_their_own() -> None:
    """Else one would find the trials of another in its store."""
    variables = [tuple(sorted(each.items())) for each in machines.ENVIRONMENTS.values()]
    assert len(set(variables)) == len(variables)
    assert all(variables)
