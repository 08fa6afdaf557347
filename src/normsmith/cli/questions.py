"""`normsmith questions`: what a study can be asked."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from normsmith.studies import every_question


def questions() -> None:
    """List the questions that `normsmith study` can answer, with the claim that each puts to the test."""
    console = Console(highlight=False)
    for question in every_question().values():
        console.print(f"[bold]{question.name}[/bold]  {escape(question.title)}")
        console.print(f"  Claim: {escape(question.claim)}")
        console.print(f"  Source: {escape(question.source)}\n", style="dim")
