"""The explorer page: the kept runs, sentences of the literature, and what the studies said of each."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from shared import webpage
from shared.answers import Run, answer_of

from normsmith.studies.results import Effect

PARTS = Path(__file__).parent
NORMS = {
    "none": "no norm",
    "batch": "batch norm",
    "renorm": "batch renorm",
    "layer": "layer norm",
    "group": "group norm",
}
LABELS = {
    "norm": "Norm",
    "where": "Placement",
    "batch": "Batch size",
    "rate": "Learning rate",
    "momentum": "Momentum of the running statistics",
    "gain": "Initial weights",
}

Settings = dict[str, Any]
"""Where all controls stand: norm, where, batch, rate, momentum and gain."""


@dataclass(frozen=True)
class Shown:
    """A run that a sentence of the literature is seen in: its settings, what it is called, and its figures."""

    settings: Settings
    label: str
    figures: str


@dataclass(frozen=True)
class Sentence:
    """One sentence of the literature, where to see it, and what the studies said of it (nothing if none did)."""

    name: str
    text: str
    look: str
    panel: str
    claim: str
    shown: list[Shown]
    effects: list[Effect]


def rendered(kept: dict[str, Any], runs: list[Run], claims: str) -> str:
    """The whole page as one HTML document.

    Args:
        kept: the runs, as `scripts/explorer.py` keeps them.
        runs: the answers of the studies of the explorer's network, as `scripts/shared/answers.py` has them.
        claims: the text of docs/claims.md, whose table says which question a claim belongs to.
    """
    return webpage.rendered(
        PARTS,
        (PARTS / "page.js").read_text(encoding="utf-8"),
        kept=kept,
        sentences=sentences(kept, runs, claims),
        choice=choice,
        labels=LABELS,
        studies=runs,
        data=data(kept),
    )


def data(kept: dict[str, Any]) -> Markup:
    """What the script draws from, as JSON that cannot end its element."""
    content = {**kept, "norms": NORMS}
    return Markup(json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"))


def sentences(kept: dict[str, Any], runs: list[Run], claims: str) -> list[Sentence]:
    """All sentences of sentences.json, with the figures of their runs and the verdicts on their claims."""
    read = json.loads((PARTS / "sentences.json").read_text(encoding="utf-8"))
    return [
        Sentence(
            each["name"],
            each["text"],
            each["look"],
            each["panel"],
            each["claim"],
            shown(kept, [read["usual"] | settings for settings in each["show"]]),
            effects(each["claim"], runs, claims),
        )
        for each in read["sentences"]
    ]


def shown(kept: dict[str, Any], settings: list[Settings]) -> list[Shown]:
    """The runs of a sentence, called by what they differ in."""
    differing = [name for name in LABELS if len({str(each[name]) for each in settings}) > 1]
    return [
        Shown(
            each, ", ".join(choice(name, each[name], alone=False) for name in differing), figures(kept, each)
        )
        for each in settings
    ]


def choice(name: str, value: Any, *, alone: bool = True) -> str:
    """What one position of a control is called; not `alone`, with what it is a position of.

    >>> choice("batch", 64), choice("batch", 64, alone=False), choice("rate", 0.015625), choice("gain", 0.0625)
    ('64', 'batch size 64', '1/64', '× 1/16')
    """
    if name == "norm":
        return NORMS[value]
    if name == "where":
        return f"{value} the activation"
    number = str(value) if name == "momentum" or value >= 1 else f"1/{1 / value:g}"
    number = number.removesuffix(".0")
    words = {
        "batch": "batch size ",
        "rate": "learning rate ",
        "momentum": "momentum ",
        "gain": "initial weights ",
    }
    sign = "× " if name == "gain" else ""
    return f"{sign}{number}" if alone else f"{words[name]}{sign}{number}"


def key(settings: Settings) -> str:
    """The name of a run in the data, as `runs.Setting.key`."""
    where = "" if settings["norm"] == "none" else settings["where"]
    return f"{settings['norm']}/{where}/{settings['batch']}/{settings['rate']:g}/{settings['gain']:g}"


def figures(kept: dict[str, Any], settings: Settings) -> str:
    """What became of a run, in a few words."""
    run = kept["runs"][key(settings)]
    if run["diverged"] is not None:
        return f"diverged at step {run['diverged']}"
    in_training = run["train"]["accuracy"][-1]
    evaluation = run["evaluation"].get(f"{settings['momentum']:g}")
    if evaluation is None:
        return f"{in_training} % in both modes"
    return f"{evaluation['accuracy'][-1]} % in evaluation, {in_training} % in training mode"


def effects(claim: str, runs: list[Run], claims: str) -> list[Effect]:
    """What the studies said of a claim: nothing where it has no question, or the question was not asked."""
    row = re.search(rf"^\| \[{re.escape(claim)}\]\(#.*$", claims, re.MULTILINE)
    if row is None:
        raise ValueError(f"expected a claim of docs/claims.md, got {claim!r}")
    question = re.search(r"\[`([a-z-]+)`\]", row[0])
    known = answer_of(question[1], runs) if question else None
    return [Effect.model_validate(each) for each in known[1]["effects"]] if known else []
