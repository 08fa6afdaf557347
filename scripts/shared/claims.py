"""The claims of the notes in the order in which a reader asks for them, each with the hypotheses that answer it best.

The table at the top of the gallery and the verdicts of docs/claims.md are written from it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normsmith.studies.results import Verdict
from shared.facts import out_of_reach, told
from shared.findings import Finding, findings_in

MAIN = "digits-mlp"
"""The network that a sentence is on where it names no other."""

Run = dict[str, Any]
"""One study of one task: what was run and where, and its answers, each with its effects."""


@dataclass(frozen=True)
class Claim:
    """One claim of the notes.

    Attributes:
        title: its name, as in the contents.
        text: the claim as the notes put it.
        answers: where its answers stand: a question, and the patterns of its hypotheses, the main ones first.
        on: the networks whose answers count, where the claim is about these.
        opposite: the pattern of hypotheses that say the opposite of the claim: where one holds, that is against it.
        beyond: whether it is one that the notes do not make.
    """

    title: str
    text: str
    answers: tuple[tuple[str, tuple[str, ...]], ...]
    on: tuple[str, ...] = ()
    beyond: bool = False
    opposite: str = ""

    @property
    def question(self) -> str:
        """The question that is asked for it first."""
        return self.answers[0][0]


CLAIMS = (
    Claim(
        "Larger learning rates",
        "Batch norm allows larger learning rates.",
        (("learning-rates", ("largest rate .*",)),),
    ),
    Claim(
        "Fewer epochs",
        "Training needs fewer steps with batch norm.",
        (
            (
                "fewer-steps",
                ("steps to .*: batch norm vs none", "steps to .*, relu: batch norm vs none as initialised"),
            ),
        ),
    ),
    Claim(
        "Initial weights matter less",
        "Batch norm makes training less sensitive to the initial weights.",
        (("initialisation", ("gains that reach .*",)),),
    ),
    Claim(
        "Saturating activations",
        "Batch norm makes networks with saturating activations trainable.",
        (("saturation", ("final metric, .*none", "final metric, .*none as initialised")),),
    ),
    Claim(
        "A smoother loss",
        "Batch norm makes the loss smoother, so that gradients stay right for longer.",
        (("smoothness", ("effective beta, relu.*", "gradient predictiveness, .*")),),
    ),
    Claim(
        "Internal covariate shift",
        "Batch norm is fast because it reduces internal covariate shift.",
        (
            (
                "covariate-shift",
                ("relative shift, batch norm vs none", "relative shift, noisy.*", "steps to .*, noisy.*"),
            ),
        ),
        opposite=".*",
    ),
    Claim(
        "Regularisation",
        "Batch norm regularises, and the less the larger the batch.",
        (("regularisation", ("train–test gap.*",)),),
    ),
    Claim(
        "Dropout",
        "Dropout before a batch norm clashes with it.",
        (("dropout", ("variance shift, dropout between.*", "what dropout gains.*")),),
    ),
    Claim(
        "Before or after the activation",
        "Batch norm belongs before ReLU, and after s-shaped activations.",
        (("placement", (".*",)),),
    ),
    Claim(
        "Small batches",
        "Batch norm fails at small batches, and batch renormalization keeps the accuracy.",
        (("small-batches", ("final metric, batch norm.*", "final metric, .*renorm.*", "renorm recovers.*")),),
    ),
    Claim(
        "Batches of few classes",
        "Batch norm fails where batches are not representative, and batch renormalization keeps the accuracy.",
        (("dependent-batches", ("final metric, batch norm.*", "final metric, .*renorm.*")),),
    ),
    Claim(
        "Network types",
        "Batch norm works in dense, convolutional and recurrent networks.",
        (
            (
                "recurrent-norms",
                (
                    "steps to .*per step vs none",
                    "steps to .*inputs only vs none",
                    "final metric: per step vs shared",
                ),
            ),
            ("fewer-steps", ("steps to .*: batch norm vs none",)),
        ),
        on=("digits-rnn", "digits-cnn"),
    ),
    Claim(
        "Moving averages",
        "At inference the moving averages stand for the statistics of training, and lag behind them.",
        (("moving-averages", ("final metric, momentum 0.1, 4.*", "final metric, momentum 0.01, 4.*")),),
    ),
    Claim(
        "Shifted inputs",
        "Statistics can adapt to shifted inputs; what is no shift of mean and variance stays.",
        (("shifted-inputs", ("final metric, contrast.*", "final metric, invert.*")),),
    ),
    Claim(
        "Data preparation",
        "A batch norm as first layer replaces the preparation of data.",
        (("data-preparation", ("final metric, raw.*", "raw scales: .*", "final metric, .*quantile.*")),),
        opposite="final metric, .*quantile.*",
    ),
    Claim(
        "γ, β and ε",
        "γ and β restore what a network can represent; ε only stabilises.",
        (("affine-and-epsilon", ("final metric, sigmoid.*", "final metric: ε.*")),),
    ),
    Claim(
        "Whitening",
        "Whitening goes further than batch norm.",
        (("whitening", ("steps to .*",)),),
    ),
    Claim(
        "Norms that a network has",
        "A network needs the batch norms that its author gave it.",
        (("own-norms", ("final metric: as is vs stripped",)),),
        beyond=True,
    ),
    Claim(
        "Several domains",
        "Data in several styles need a batch norm for each.",
        (("domain-norms", ("final metric, .* vs one", "final metric, .*each style standardised before")),),
        beyond=True,
    ),
)


@dataclass(frozen=True)
class Line:
    """What answers a claim.

    Attributes:
        finding: what was found.
        task: on which network.
        place: where on the page it stands.
        opposite: whether the opposite of the claim was asked.
        asides: what else the networks that were compared say.
    """

    finding: Finding
    task: str
    place: str
    opposite: bool = False
    asides: Sequence[str] = ()

    @property
    def sentence(self) -> str:
        """The sentence, with the network where it is not the main one, and what was asked if the opposite."""
        said = self.finding.sentence
        if self.opposite and not self.finding.nothing:
            said = f"Asked, as the opposite of the claim: {_within(said)}"
        if self.task != MAIN:
            said = f"On {self.task}: {_within(said)}"
        return " ".join((said, *self.asides))


def lines(claim: Claim, runs: Sequence[Run]) -> list[Line]:
    """What answers a claim, those of the main network first.

    Of another network the first hypothesis of each question counts, and others that are decided.

    Args:
        claim: one of `CLAIMS`.
        runs: as `shared/answers.py` reads them.
    """
    found: list[Line] = []
    for run in sorted(runs, key=lambda run: run["task"] != MAIN):
        for question, patterns in claim.answers:
            if claim.on and run["task"] not in claim.on:
                continue
            for answer in run["answers"]:
                if answer["question"] == question:
                    whole = run["task"] == MAIN or not _on_main(question, runs)
                    chosen = _chosen(claim, run, answer, patterns)
                    found += [line for line in chosen if whole or line is chosen[0] or _decided(line)]
    return found


def _decided(line: Line) -> bool:
    """Whether its numbers answer what was asked."""
    return line.finding.shown not in (Verdict.INCONCLUSIVE, Verdict.NOT_JUDGED)


def _within(sentence: str) -> str:
    """A sentence after a colon: in lower case, but for names."""
    return f"{sentence[0].lower()}{sentence[1:]}" if sentence[1].islower() or sentence[1] == " " else sentence


def _on_main(question: str, runs: Sequence[Run]) -> bool:
    """Whether the main network answered a question."""
    return any(
        answer["question"] == question for run in runs if run["task"] == MAIN for answer in run["answers"]
    )


def _chosen(claim: Claim, run: Run, answer: dict[str, Any], patterns: Sequence[str]) -> list[Line]:
    """The findings whose names fit, in the order of the patterns."""
    task, question = run["task"], answer["question"]
    findings, facts = findings_in(answer, run), told(question, answer, run)
    return [
        Line(
            finding,
            task,
            f"{question}-{task}",
            re.fullmatch(claim.opposite, finding.effect.name) is not None,
            (
                *([out_of_reach(answer)] if finding.nothing else ()),
                *(text for fact, text in facts if re.fullmatch(fact.beside, finding.effect.name)),
            ),
        )
        for pattern in patterns
        for finding in findings
        if re.fullmatch(pattern, finding.effect.name)
    ]
