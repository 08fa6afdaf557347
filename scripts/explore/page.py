"""The explorer page: the kept runs, sentences of the literature, and what the studies said of each."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup
from shared import webpage
from shared.answers import MAIN, Run

from explore.evidence import COLOURS, Evidence, evidence_of
from explore.levels import levels_of
from explore.margins import asked

PARTS = Path(__file__).parent
SCRIPTS = ("chart.js", "page.js", "controls.js")
PROOFS = "tests/docs/test_identities.py"
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
    """One sentence of the literature: where to see it, which tests prove it, and what the studies said of it.

    Attributes:
        name: what its address ends in.
        group: the part of docs/claims.md that its claim stands in.
        text: the sentence.
        look: what to see in which picture; "" where no run of the page shows it.
        panel: the picture.
        anchor: the place of its claim in docs/claims.md.
        shown: the runs that it is seen in.
        identity: what of it is an identity; "" where nothing is.
        proved: the tests that prove that.
        evidence: what was found on hypotheses that test it.
        levels: what networks reached that are compared; "" where none are named.
        note: what else a reader must know; "" where that is nothing.
        questions: those that were asked, or are to be asked, for it.
        open: those of them that were not answered yet.
    """

    name: str
    group: str
    text: str
    look: str
    panel: str
    anchor: str
    shown: list[Shown]
    identity: str
    proved: list[str]
    evidence: list[Evidence]
    levels: str
    note: str
    questions: list[str]
    open: list[str]

    @property
    def tally(self) -> list[tuple[str, str]]:
        """What stands beside its text in the list: each side with the number of findings on it, and its colour."""
        counted = Counter(each.side for each in self.first)
        judged = [(f"{counted[side]} {side}", COLOURS[side]) for side in COLOURS if counted[side]]
        if self.levels and not judged:
            judged = [("not judged", COLOURS["not judged"])]
        return [*([("proved", COLOURS["for"])] if self.proved else []), *judged]

    @property
    def first(self) -> list[Evidence]:
        """What was found, without what other networks say otherwise."""
        return [each for each in self.evidence if not each.otherwise]

    @property
    def margins(self) -> list[str]:
        """What stands below its text in the list: what is asked for, in how many seeds it is so, and where not."""
        others = [each for each in self.evidence if each.otherwise]
        counted = {each.task: Counter(one.side for one in others if one.task == each.task) for each in others}
        return [
            *asked(self.first),
            *(
                f"Otherwise on {task}: {', '.join(f'{n} {side}'.removesuffix(' here') for side, n in sides.items())}."
                for task, sides in counted.items()
            ),
        ]


def rendered(kept: dict[str, Any], runs: list[Run], claims: str) -> str:
    """The whole page as one HTML document.

    Args:
        kept: the runs, as `scripts/explorer.py` keeps them.
        runs: the answers of the studies, as `scripts/shared/answers.py` has them.
        claims: the text of docs/claims.md, whose headings are the claims.
    """
    usual = listed()["usual"]
    every = sentences(kept, runs, claims)
    return webpage.rendered(
        PARTS,
        "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS),
        kept=kept,
        groups={name: list(group) for name, group in groupby(every, lambda sentence: sentence.group)},
        studies=[run for run in runs if run["task"] == MAIN],
        proofs=PROOFS,
        choice=choice,
        usual=", ".join(choice(name, usual[name], alone=False) for name in ("batch", "rate", "momentum")),
        labels=LABELS,
        data=data(kept),
    )


def data(kept: dict[str, Any]) -> Markup:
    """What the script draws from, as JSON that cannot end its element."""
    content = {**kept, "norms": NORMS}
    return Markup(json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"))


def listed() -> dict[str, Any]:
    """What sentences.json holds: the usual settings of runs, and the sentences."""
    read: dict[str, Any] = json.loads((PARTS / "sentences.json").read_text(encoding="utf-8"))
    return read


def sentences(kept: dict[str, Any], runs: list[Run], claims: str) -> list[Sentence]:
    """All sentences of sentences.json, with the figures of their runs and what was found."""
    read = listed()
    return [sentence(each, read["usual"], kept, runs, claims) for each in read["sentences"]]


def sentence(
    each: dict[str, Any], usual: Settings, kept: dict[str, Any], runs: list[Run], claims: str
) -> Sentence:
    """One entry of sentences.json."""
    parts = [*each.get("evidence", []), *([each["levels"]] if "levels" in each else [])]
    evidence, unanswered = evidence_of(each.get("evidence", []), runs)
    levels = levels_of(each["levels"], runs) if "levels" in each else ""
    if "levels" in each and not levels:
        unanswered.append(each["levels"]["question"])
    return Sentence(
        each["name"],
        each["group"],
        each["text"],
        each.get("look", ""),
        each.get("panel", ""),
        anchor(each["claim"], claims),
        shown(kept, usual, each.get("show", [])),
        each.get("identity", ""),
        each.get("proved", []),
        evidence,
        levels,
        each.get("note", ""),
        list(dict.fromkeys(part["question"] for part in parts)),
        list(dict.fromkeys(unanswered)),
    )


def shown(kept: dict[str, Any], usual: Settings, chosen: list[Settings]) -> list[Shown]:
    """The runs of a sentence, called by what they differ in, and by what is not as usual."""
    every = [usual | settings for settings in chosen]
    differing = {name for name in LABELS if len({str(each[name]) for each in every}) > 1}
    return [
        Shown(
            each,
            ", ".join(
                choice(name, each[name], alone=False)
                for name in LABELS
                if name in differing or each[name] != usual[name]
            ),
            figures(kept, each),
        )
        for each in every
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
    in_training = percent(run["train"]["accuracy"][-1])
    evaluation = run["evaluation"].get(f"{settings['momentum']:g}")
    if evaluation is None:
        return f"{in_training} in both modes"
    return f"{percent(evaluation['accuracy'][-1])} in evaluation, {in_training} in training mode"


def percent(accuracy: float) -> str:
    """An accuracy, and what chance would be where it is near that, as page.js has it."""
    return f"{accuracy} % (chance is 10 %)" if accuracy < 15 else f"{accuracy} %"


def anchor(claim: str, claims: str) -> str:
    """The place of a claim in docs/claims.md, as its headings have it.

    >>> anchor("Why ε", "## What it computes\\n### Why ε\\n")
    'why-ε'
    """
    if re.search(rf"^### {re.escape(claim)}$", claims, re.MULTILINE) is None:
        raise ValueError(f"expected a claim of docs/claims.md, got {claim!r}")
    return re.sub(r"[^\w -]", "", claim.lower()).replace(" ", "-")
