"""What networks of a study reached: figures beside a sentence, of which none is judged."""

from __future__ import annotations

from typing import Any

from shared.answers import Run, answer_of
from shared.facts import cells_of, figure, metric_of


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
    cells = cells_of(answer)
    said = "; ".join(f"{arm} {figure(cells[arm, 'test metric'])}" for arm in asked["arms"])
    return f"Test {metric_of(run)} at the end, median of {run['seeds']} seeds, not judged: {said}."
