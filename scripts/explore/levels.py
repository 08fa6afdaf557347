"""What networks of a study reached: figures beside a sentence, of which none is judged."""

from __future__ import annotations

from typing import Any

from shared.answers import Run, answer_of

from normsmith._text import number


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
    said = "; ".join(f"{arm} {number(100 * float(rows[arm]['test metric']))} %" for arm in asked["arms"])
    return f"Test {metric} at the end, median of {run['seeds']} seeds, not judged: {said}."
