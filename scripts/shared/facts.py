"""What the arms of a study say that no hypothesis asks: sentences whose figures are those of the table of arms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from normsmith._text import number
from normsmith.tasks.shapes import CLASSES

_NORM, _RENORM = "batch norm before activation", "batch renorm before activation"
_CELL = re.compile(r"\{(?P<arm>[^|}]+)(?:\|(?P<column>[^}]+))?\}")
_CHANCE = {"shapes": 1 / len(CLASSES), "digits-mlp": 1 / 10}
"""By task: what guessing gives where all classes are as frequent."""
_OUT_OF_REACH = "No arm reached the target within"
"""How the note of a study begins whose target no network reached."""


@dataclass(frozen=True)
class Fact:
    """One sentence with figures.

    Attributes:
        text: `{arm}` is the test metric of an arm, `{arm|column}` what stands in another column, `{metric}` the name of
            the metric, `{chance}` what guessing gives.
        beside: the pattern of the hypothesis in whose row of the claims it is told; none if only in its section.
        above: told only where the first of two such figures is larger than the second.
    """

    text: str
    beside: str = ""
    above: tuple[str, str] | None = None


def _at_the_end(activation: str) -> Fact:
    plain, normed = f"{activation}, no norm", f"batch norm before {activation}"
    said = {"relu": "ReLU"}.get(activation, activation)
    return Fact(
        f"At the end, with {said}: {{metric}} {{{plain}}} without and {{{normed}}} with batch norm, worst seeds "
        f"{{{plain}|worst seed}} and {{{normed}|worst seed}}.",
        beside=f"steps to .*, {activation}: batch norm vs none",
    )


def _prepared(raw: str, beside: str) -> Fact:
    return Fact(
        f"Test accuracy with {raw}: as they are {{{raw}, as they are}}, standard scaler {{{raw}, standard scaler}}, "
        f"quantile transform {{{raw}, quantile transform}}, batch norm first {{{raw}, batch norm first}}.",
        beside,
    )


FACTS: Mapping[str, tuple[Fact, ...]] = {
    "fewer-steps": (_at_the_end("relu"), _at_the_end("tanh")),
    "regularisation": (
        Fact(
            "Compared are batch norms over more and over fewer samples: whether batch norm regularises at all, against "
            "a network without a norm, was not asked.",
            beside=r"train–test gap: \d+ vs .*",
        ),
        Fact(
            f"Test accuracy with wrong labels: {{{_NORM}, 256 samples}} where 256 samples are normalised together, "
            f"{{{_NORM}, 16 samples}} at 16, and {{{_NORM}, 8 samples}} at 8.",
        ),
        Fact(
            f"In training it is {{{_NORM}, 256 samples|training metric}}, {{{_NORM}, 16 samples|training metric}} and "
            f"{{{_NORM}, 8 samples|training metric}}, wrong labels included. Where that is lower than on test, "
            "the gap is below 0, and a lower gap is one farther below.",
        ),
        Fact(
            f"On these few samples accuracy is {{{_NORM}, 16 of few samples|training metric}} at 16 and "
            f"{{{_NORM}, 128 of few samples|training metric}} at 128 normalised together, on test "
            f"{{{_NORM}, 16 of few samples}} and {{{_NORM}, 128 of few samples}}.",
            beside="train–test gap on few samples.*",
        ),
    ),
    "dropout": (
        Fact(
            f"Test accuracy without dropout and with half of the units dropped between the layers: {{{_NORM}}} and "
            f"{{{_NORM}, dropout 0.5 between}} with batch norm, {{no norm}} and {{no norm, dropout 0.5 between}} "
            "without a norm.",
            beside="what dropout gains.*",
        ),
    ),
    "small-batches": (
        Fact(
            f"Test accuracy at 2 samples: batch norm {{{_NORM}, 2 samples}}, batch renorm {{{_RENORM}, 2 samples}}; at "
            f"32 samples batch norm has {{{_NORM}, 32 samples}}.",
            beside="final metric, .*renorm.*",
        ),
        Fact(
            f"At 8 and 4 samples: batch norm {{{_NORM}, 8 samples}} and {{{_NORM}, 4 samples}}, batch renorm "
            f"{{{_RENORM}, 8 samples}} and {{{_RENORM}, 4 samples}}.",
        ),
        Fact(
            "Norms that do not look at the batch: layer norm {layer norm before activation}, group norm "
            "{group norm before activation}.",
        ),
    ),
    "dependent-batches": tuple(
        Fact(
            f"Test accuracy at {said} in a batch: batch norm {{{_NORM}, {few} a batch}}, batch renorm "
            f"{{{_RENORM}, {few} a batch}}, layer norm {{layer norm before activation, {few} a batch}}, no norm "
            f"{{no norm, {few} a batch}}; with all classes batch norm has {{{_NORM}, all classes}}, no norm "
            "{no norm, all classes}.",
            beside="final metric, 2 classes a batch: renorm.*",
        )
        for said, few in (("two classes", "2 classes"), ("one class", "1 class"))
    ),
    "recurrent-norms": (
        Fact(
            "Test accuracy at the end: no norm {no norm}, a batch norm on the inputs alone {batch norm of the inputs}, "
            "one for each time step {batch norm per step}, one that all steps share {batch norm, shared}.",
            beside="steps to .*, per step vs none",
        ),
    ),
    "data-preparation": (
        _prepared("raw scales", "raw scales: .*"),
        _prepared("heavy tails", "final metric, heavy tails: .*"),
        _prepared("outliers", "final metric, outliers: .*"),
    ),
    "shifted-inputs": (
        Fact(
            "Test accuracy on inverted images: {invert|statistics of training} by the statistics of training, "
            "{invert|adapted} by adapted ones; guessing gives {chance}.",
            beside="final metric, invert: .*",
        ),
        Fact(
            "By the statistics of training it is so low already that adapted ones could hardly do worse.",
            above=("chance", "invert|statistics of training"),
        ),
        Fact(
            "With a quarter of the contrast: {contrast|statistics of training} and {contrast|adapted}; on the images "
            "as they are {none|statistics of training} by the statistics of training.",
        ),
        Fact(
            "So adapted statistics of shifted images beat those of training on images without a shift: what they win "
            "is not the shift alone. That moving averages lag behind in so short a training may be a part of it, "
            "which was not tested.",
            above=("contrast|adapted", "none|statistics of training"),
        ),
    ),
    "saturation": (
        Fact(
            "Test accuracy of sigmoid networks: {sigmoid, no norm, as initialised} with the initial weights they came "
            "with, {sigmoid, no norm} with good ones, {batch norm before sigmoid} with batch norm.",
        ),
    ),
    "domain-norms": (
        Fact(
            "Test accuracy: one batch norm {one batch norm}, one for each style, with γ and β of its own, "
            "{a norm for each style, its own γ and β}, one norm on inputs that were standardised style by style "
            "{one batch norm, each style standardised before}, no norm {no norm}.",
            beside="final metric, .*each style standardised before",
        ),
    ),
}
"""By question."""


def fixed_target(run: Mapping[str, Any]) -> str:
    """The task's target as its facts say it, such as `0.95`; empty where each question takes one from its controls."""
    said: str = run["task_facts"].get("target", "")
    return said if re.fullmatch(r"[\d.]+", said) else ""


def near_target(chart: Mapping[str, object], target: str) -> list[str]:
    """How close the target is to what a network without a norm reaches at all, on charts of one against batch norm."""
    lines = chart.get("lines", ())
    plain = [line for line in lines if line["label"] == "no norm"] if isinstance(lines, list) else []
    if not (target and plain and chart.get("name") in ("sweep", "gains")):
        return []
    best = figure(str(max(value for value in plain[0]["y"] if value is not None)))
    return [
        f"Without a norm the network reaches {best} at its best (median), so that a target of {figure(target)} is "
        "near what it can; what reaches a lower target may be more."
    ]


def out_of_reach(answer: Mapping[str, Any]) -> str:
    """Where the target comes from that no network reached, and what they reach; empty if one did."""
    notes = answer.get("notes", ())
    target = next(
        (match[1] for note in notes if (match := re.match(r"Target: test metric ([\d.]+),", note))), ""
    )
    if not target or not any(map(hinders, notes)):
        return ""
    chart = answer["chart"]
    best = max(value for line in chart["lines"] for value in line["y"] if value is not None)
    at = "rate" if chart["name"] == "sweep" else "step"
    return (
        f"The target, {target}, comes from validation, and is above what networks reach on test: the best median at "
        f"any {at} is {number(best)}."
    )


def hinders(note: str) -> bool:
    """Whether a note says that no network reached the target."""
    return note.startswith(_OUT_OF_REACH)


def told(question: str, answer: Mapping[str, Any], run: Mapping[str, Any]) -> list[tuple[Fact, str]]:
    """The sentences on a question all of whose arms were run, each with its figures."""
    if "arms" not in answer:
        return []
    cells = cells_of(answer)
    if run["task"] in _CHANCE:
        cells["chance", "test metric"] = str(_CHANCE[run["task"]])
    metric = metric_of(run)
    filled = ((fact, _filled(fact, cells, metric)) for fact in FACTS.get(question, ()))
    return [(fact, sentence) for fact, sentence in filled if sentence]


def cells_of(answer: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """The table of an answer's arms, by arm and column."""
    columns, rows = answer["arms"]["columns"], answer["arms"]["rows"]
    return {(row[0], column): cell for row in rows for column, cell in zip(columns, row, strict=True)}


def metric_of(run: Mapping[str, Any]) -> str:
    """What a run's task measures, such as `accuracy`."""
    said: str = run.get("task_facts", {}).get("metric", "accuracy").partition(",")[0]
    return said


def _filled(fact: Fact, cells: Mapping[tuple[str, str], str], metric: str) -> str:
    """A sentence with its figures; empty if one of them is not there, or it is not so."""
    if fact.above:
        larger, smaller = (cells.get(_key(name), "") for name in fact.above)
        if not (_is_number(larger) and _is_number(smaller) and float(larger) > float(smaller)):
            return ""
    sentence = fact.text.replace("{metric}", {"r squared": "R²"}.get(metric, metric))
    wanted = {match[0]: _key(match[0][1:-1]) for match in _CELL.finditer(sentence)}
    for place, key in wanted.items():
        said = figure(cells.get(key, ""), share=metric == "accuracy")
        if not said:
            return ""
        sentence = sentence.replace(place, said)
    arms = dict.fromkeys(arm for arm, _ in wanted.values())
    diverged = [
        f"{arm}: {n} runs" for arm in arms if not (n := cells.get((arm, "diverged"), "0 ")).startswith("0 ")
    ]
    return sentence + (f" Diverged: {'; '.join(diverged)}." if diverged else "")


def _key(name: str) -> tuple[str, str]:
    """The arm and the column of `arm|column`."""
    arm, _, column = name.partition("|")
    return arm, column or "test metric"


def figure(cell: str, *, share: bool = True) -> str:
    """`97.2 %` for `0.9722`, or the number itself where the metric is no share; empty for what is none."""
    if not _is_number(cell):
        return ""
    value = float(cell.replace("−", "-"))
    if not share:
        return number(value)
    return f"{number(100 * value)} %" if 0 <= value <= 1 else ""


def _is_number(cell: str) -> bool:
    return bool(re.fullmatch(r"[−-]?\d[\d.e+−-]*", cell))
