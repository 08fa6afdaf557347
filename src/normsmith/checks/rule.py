"""The form of a rule: what it looks for, what it needs for that, and how it explains itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from textwrap import dedent
from typing import Literal, get_args

from normsmith.checks.context import Context
from normsmith.checks.finding import SEVERITIES, Finding, NotRun, Severity

Level = Literal["fast", "standard", "deep"]
Need = Literal[
    "graph", "optimizer", "ema", "checkpoint", "rank_checkpoints",
    "batches", "loss", "validate", "domain",
    "training",
]  # fmt: skip
"""What a rule cannot do without. "graph" is the forward, followed; "training" a few training steps on a copy."""

LEVELS: tuple[Level, ...] = get_args(Level)
SEEN: dict[Level, str] = {
    "fast": "modules, settings and buffers",
    "standard": "a few batches, too",
    "deep": "a few training steps on a copy, too",
}
"""What the rules of a level look at."""
FROZEN = (
    "A norm is frozen where its statistics, or its γ and β, stay constant while the rest may train. "
    "`normsmith.surgery.freeze` can freeze either; calling `.eval()` on just the norm freezes the statistics; "
    "`requires_grad=False` freezes γ and β only (NS305)."
)
THREADS = "issues and pull requests on GitHub in which people met it, as owner/project#number"
"""What the explanations of rules take for known."""

SECTIONS = ("What", "Formula", "Why it hurts", "Threshold", "Reproduction", "Fix", "Threads")
"""What an explanation tells, in this order."""

_LEVEL_OF: dict[Need, Level] = {
    "batches": "standard",
    "loss": "standard",
    "validate": "standard",
    "domain": "standard",
    "training": "deep",
}
"""The level from which on a need is met; the others need neither data nor a forward of the network."""

Check = Callable[[Context], Iterable[Finding] | NotRun]
"""Looks at what a user handed over: the findings, none where all is well, or why it could not look."""


@dataclass(frozen=True, eq=False)
class Rule:
    """One thing that can be wrong with a network's normalization, and the code that looks for it.

    - `code`, `name`: as NS404 and stale-statistics; the file of the rule has the name, with underscores.
    - `severity`: of its findings, unless one says otherwise; "info" never fails a run.
    - `explanation`: the docstring of the rule's module: a sentence, then the `SECTIONS`.
    - `varies`: severities that single findings may have instead.
    """

    code: str
    name: str
    severity: Severity
    check: Check
    explanation: str
    needs: tuple[Need, ...] = ()
    varies: tuple[Severity, ...] = ()

    @property
    def severities(self) -> tuple[Severity, ...]:
        """Those that its findings may have, the most severe first.

        >>> Rule("NS000", "nothing", "warning", lambda _: (), "Nothing.", varies=("error",)).severities
        ('error', 'warning')
        """
        return tuple(s for s in SEVERITIES if s in (self.severity, *self.varies))

    @cached_property
    def level(self) -> Level:
        """The first level at which the rule runs.

        >>> Rule("NS000", "nothing", "info", lambda _: (), "Nothing.", needs=("graph", "batches")).level
        'standard'
        """
        return max((_LEVEL_OF.get(need, "fast") for need in self.needs), key=LEVELS.index, default="fast")

    @cached_property
    def title(self) -> str:
        """What the rule finds, in one sentence."""
        return " ".join(self.explanation.partition("\n\n")[0].split())

    @cached_property
    def sections(self) -> dict[str, str]:
        """The sections of the explanation by their headings.

        >>> Rule("NS000", "nothing", "info", lambda _: (), "Nothing.\\n\\nWhat: not a thing.").sections
        {'What': 'not a thing.'}
        """
        parts = re.split(rf"^({'|'.join(SECTIONS)}):[ \n]", self.explanation, flags=re.MULTILINE)
        return {name: text.strip("\n") for name, text in zip(parts[1::2], parts[2::2], strict=True)}

    @property
    def reproduction(self) -> str:
        """A program of a few lines that has the fault and finds it, with its own assertions."""
        return dedent(self.sections["Reproduction"])
