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
    "effect_low",
    "effect_high",
    "shown",
    "censored_seeds",
    "median_low",
    "median_high",
    "interval_low",
    "interval_high",
    "margin",
    "beyond",
    "short",
    "p",
    "p_adjusted",
    "verdict",
    "look",
    "look_alpha",
)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_json(result: StudyResult) -> str:
    """The whole result; `StudyResult.model_validate_json` reads it back as it was."""
    return result.model_dump_json(indent=2)


def to_csv(result: StudyResult) -> str:
    """One row for each effect and seed, the effect's summary repeated on each.

    `effect_low` and `effect_high` (equal unless the effect is censored), the median, the interval and the margin are
    as in `Effect`: positive as claimed, natural logarithms where `scale` is "ratio". `shown` is the effect as the
    report writes it. `look` is at which of several declared looks a question was judged, `look_alpha` what that
    look has of the 5 %; both are empty in a study that looks once. Text that a spreadsheet would run as a formula is
    preceded by an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(CSV_COLUMNS)
    for row in _rows(result):
        writer.writerow([inert(cell) if isinstance(cell, str) else cell for cell in row])
    return out.getvalue()


def _rows(result: StudyResult) -> Iterator[list[str | int | float]]:
    for answer in result.answers:
        for e in answer.effects:
            names = [result.task, answer.question, e.name, e.hypothesis, e.treatment, e.control]
            counts = [e.margin, e.beyond, e.short]
            summary = [e.censored, *e.median, *e.interval, *counts, e.p, e.p_adjusted, e.verdict.value]
            look = [answer.look.number, answer.look.alpha] if answer.look else ["", ""]
            for seed, interval in zip(e.seeds, e.effects, strict=True):
                yield [
                    *names,
                    e.unit,
                    e.scale,
                    e.kind,
                    e.better,
                    seed,
                    *interval,
                    notation.span(e, interval),
                    *summary,
                    *look,
                ]


def inert(text: str) -> str:
    """Text that no spreadsheet runs as a formula."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text
