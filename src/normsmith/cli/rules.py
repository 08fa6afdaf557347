"""`normsmith rules`: what a check looks for."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from normsmith.checks import every_rule


def rules() -> None:
    """List the rules of `normsmith check`."""
    console = Console(highlight=False)
    for rule in every_rule().values():
        console.print(f"[bold]{rule.code}[/bold] {rule.name}  [dim]{rule.severity}, {rule.level}[/dim]")
        console.print(f"  {escape(rule.title)}")
