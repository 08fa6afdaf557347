"""What networks of a study reached: figures beside a sentence, of which none is judged."""

from __future__ import annotations

import re
from typing import Any

from shared.answers import Run, answer_of

from normsmith._text import exact


def levels_of(asked: dict[str, Any], runs: list[Run]) -> str:
    """`Test accuracy at the end, median of 20 seeds, not judged: …` of the named arms; "" without an answer.

    Args:
        asked: the `levels` of a sentence in sentences.json: a `question`, and the names of `arms` in its table.
        runs: the answers of the studies, as `scripts/shared/answers.py` has them.
    """
    known = answer_of(asked["question"], runs)
    if known is None:
        return ""
    run, answer = known
    table = answer["arms"]
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}
    metric = run["task_facts"]["metric"].partition(",")[0]
    said = "; ".join(_reached(arm, rows[arm], run["seeds"]) for arm in asked["arms"])
    return f"Test {metric} at the end, median of {run['seeds']} seeds, not judged: {said}."


def _reached(arm: str, row: dict[str, str], seeds: int) -> str:
    """`no norm 95 %`, with the steps to the target where the table has them."""
    share = f"{arm} {exact(round(100 * float(row['test metric']), 1))} %"
    steps = row.get("steps to target")
    return f"{share} ({_arrived(steps, seeds)})" if steps else share


def _arrived(steps: str, seeds: int) -> str:
    """A cell of the table in words.

    >>> _arrived("never", 10), _arrived("250 (3 never)", 10)
    ('in most seeds never at the target', 'at the target after 250 steps, in 3 of 10 seeds never')
    """
    if steps == "never":
        return "in most seeds never at the target"
    after = f"at the target after {steps.partition(' ')[0]} steps"
    never = re.search(r"\((\d+) never\)", steps)
    return f"{after}, in {never[1]} of {seeds} seeds never" if never else after
