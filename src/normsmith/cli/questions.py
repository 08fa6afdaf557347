"""`normsmith questions`: what a study can be asked."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from normsmith.cli.study import RECOMMENDING
from normsmith.studies import Question, every_question


def questions() -> None:
    """List the questions that `normsmith study` can answer, with the claim that each puts to the test.

    Those that the quick profile leaves out say so; `-q` asks them by name.
    """
    console = Console(highlight=False)
    for question in every_question().values():
        only = "" if "quick" in question.profiles else f"  [dim]({_when(question)})[/dim]"
        console.print(f"[bold]{question.name}[/bold]  {escape(question.title)}{only}")
        console.print(f"  Claim: {escape(question.claim)}")
        console.print(f"  Source: {escape(question.source)}\n", style="dim")


def _when(question: Question) -> str:
    """How to have a question asked that the quick profile leaves out."""
    if question.name == RECOMMENDING:
        return "--recommend, or by name"
    return "--profile full, or by name" if question.profiles else "by name"
