"""`normsmith explain`: what a rule looks for, why it matters, and how to mend it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from normsmith.checks import named_rule


def explain(
    rule: Annotated[str, typer.Argument(help="A code or a name, as NS404 or stale-statistics.")],
) -> None:
    """Explain a rule: what, formula, why it hurts, threshold, a reproduction, the fix, and where people met it."""
    told = named_rule(rule)
    sys.stdout.write(f"{told.code} {told.name} ({told.severity}, from level {told.level} on)\n\n")
    sys.stdout.write(f"{told.explanation.strip()}\n")
