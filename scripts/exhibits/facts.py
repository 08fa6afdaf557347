"""What the arms of a study say that no hypothesis asks: sentences whose figures are those of the table of arms."""

from __future__ import annotations

import re
from collections.abc import Mapping

from shared.claims import Run

from normsmith._text import number
from normsmith.studies.results import Table

_NORM, _RENORM = "batch norm before activation", "batch renorm before activation"
_CELL = re.compile(r"\{(?P<arm>[^|}]+)(?:\|(?P<column>[^}]+))?\}")

FACTS: Mapping[str, tuple[str, ...]] = {
    "regularisation": (
        f"Test accuracy with wrong labels: {{{_NORM}, 256 samples}} where 256 samples are normalised together, "
        f"{{{_NORM}, 16 samples}} at 16, and {{{_NORM}, 8 samples}} at 8. No network without a norm was run beside it.",
        f"In training it is {{{_NORM}, 256 samples|training metric}}, {{{_NORM}, 16 samples|training metric}} and "
        f"{{{_NORM}, 8 samples|training metric}}, wrong labels included. Where that is lower than on test, "
        "the gap is below 0, and a lower gap is one farther below.",
    ),
    "dropout": (
        f"Test accuracy with batch norm: {{{_NORM}}} without dropout, {{{_NORM}, dropout 0.5 between}} with half of "
        "the units dropped between the layers.",
    ),
    "small-batches": (
        f"Test accuracy at 8, 4 and 2 samples: batch norm {{{_NORM}, 8 samples}}, {{{_NORM}, 4 samples}} and "
        f"{{{_NORM}, 2 samples}}; batch renorm {{{_RENORM}, 8 samples}}, {{{_RENORM}, 4 samples}} and "
        f"{{{_RENORM}, 2 samples}}. At 32 samples batch norm has {{{_NORM}, 32 samples}}.",
        "Norms that do not look at the batch: layer norm {layer norm before activation}, group norm "
        "{group norm before activation}.",
    ),
    "dependent-batches": (
        f"Test accuracy at two classes in a batch: batch norm {{{_NORM}, 2 classes a batch}}, batch renorm "
        f"{{{_RENORM}, 2 classes a batch}}, layer norm {{layer norm before activation, 2 classes a batch}}, no norm "
        "{no norm, 2 classes a batch}. Without a norm it falls too: from {no norm, all classes} with all classes.",
    ),
    "data-preparation": tuple(
        f"Test accuracy with {raw}: as they are {{{raw}, as they are}}, standard scaler {{{raw}, standard scaler}}, "
        f"quantile transform {{{raw}, quantile transform}}, batch norm first {{{raw}, batch norm first}}."
        for raw in ("raw scales", "heavy tails", "outliers")
    ),
    "shifted-inputs": (
        "Test accuracy on inverted images: {invert|statistics of training} by the statistics of training, "
        "{invert|adapted} by adapted ones. Guessing gives 10 %, so that hardly less was possible.",
        "With a quarter of the contrast: {contrast|statistics of training} and {contrast|adapted}; on the images as "
        "they are {none|statistics of training}.",
    ),
    "saturation": (
        "Test accuracy of sigmoid networks: {sigmoid, no norm, as initialised} with the initial weights they came "
        "with, {sigmoid, no norm} with good ones, {batch norm before sigmoid} with batch norm.",
    ),
}
"""By question; `{arm}` is the test metric of an arm, `{arm|column}` what stands in another column."""


def fixed_target(run: Run) -> str:
    """The task's target as its facts say it, such as `0.95`; empty where each question takes one from its controls."""
    said: str = run["task_facts"].get("target", "")
    return said if re.fullmatch(r"[\d.]+", said) else ""


def near_target(chart: Mapping[str, object], target: str) -> list[str]:
    """How close the target is to what a network without a norm reaches at all, on charts of one against batch norm."""
    lines = chart.get("lines", ())
    plain = [line for line in lines if line["label"] == "no norm"] if isinstance(lines, list) else []
    if not (target and plain and chart.get("name") in ("sweep", "gains")):
        return []
    best = _percent(str(max(value for value in plain[0]["y"] if value is not None)))
    return [
        f"Without a norm the network reaches {best} at its best (median), so that a target of {_percent(target)} is "
        "near what it can; what reaches a lower target may be more."
    ]


def facts(question: str, arms: Table) -> list[str]:
    """The sentences on a question all of whose arms were run."""
    cells = {
        (row[0], column): cell for row in arms.rows for column, cell in zip(arms.columns, row, strict=True)
    }
    filled = (_filled(sentence, cells) for sentence in FACTS.get(question, ()))
    return [sentence for sentence in filled if sentence]


def _filled(sentence: str, cells: Mapping[tuple[str, str], str]) -> str:
    """A sentence with its figures; empty if one of them is not a share."""
    wanted = {
        match[0]: (match["arm"], match["column"] or "test metric") for match in _CELL.finditer(sentence)
    }
    for place, key in wanted.items():
        percent = _percent(cells.get(key, ""))
        if not percent:
            return ""
        sentence = sentence.replace(place, percent)
    return sentence


def _percent(cell: str) -> str:
    """`97.2 %` for `0.9722`; empty for what is no share."""
    try:
        share = float(cell)
    except ValueError:
        return ""
    return f"{number(100 * share)} %" if 0 <= share <= 1 else ""
