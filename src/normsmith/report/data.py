"""A study's result for other programs: JSON that reads back whole, CSV for a spreadsheet."""

import csv
import io
from collections.abc import Iterator

from normsmith.studies import notation
from normsmith.studies.results import StudyResult

CSV_COLUMNS = (
    "task",
    "question",
    "effect",
    "hypothesis",
    "treatment",
    "control",
    "unit",
    "scale",
    "kind",
    "better",
    "seed",
    "value",
    "value_shown",
    "censored_seeds",
    "estimate",
    "low",
    "high",
    "margin",
    "p",
    "p_adjusted",
    "verdict",
)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_json(result: StudyResult) -> str:
    """The whole result; `StudyResult.model_validate_json` reads it back as it was."""
    return result.model_dump_json(indent=2)


def to_csv(result: StudyResult) -> str:
    """One row for each effect and seed, the effect's summary repeated on each.

    `value`, `estimate`, `low`, `high` and `margin` are as in `Effect`: positive as claimed, natural logarithms
    where `scale` is "ratio"; `value_shown` is then the ratio of treatment to control. Text that a spreadsheet
    would run as a formula is preceded by an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(CSV_COLUMNS)
    for row in _rows(result):
        writer.writerow([_inert(cell) if isinstance(cell, str) else cell for cell in row])
    return out.getvalue()


def _rows(result: StudyResult) -> Iterator[list[str | int | float]]:
    for answer in result.answers:
        for e in answer.effects:
            names = [result.task, answer.question, e.name, e.hypothesis, e.treatment, e.control]
            summary = [e.censored, e.estimate, e.low, e.high, e.margin, e.p, e.p_adjusted, e.verdict.value]
            for seed, value in zip(e.seeds, e.values, strict=True):
                yield [
                    *names,
                    e.unit,
                    e.scale,
                    e.kind,
                    e.better,
                    seed,
                    value,
                    notation.shown(e, value),
                    *summary,
                ]


def _inert(text: str) -> str:
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text
