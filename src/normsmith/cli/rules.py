"""`normsmith rules`: what a check looks for."""

from __future__ import annotations

from textwrap import fill

from rich.console import Console
from rich.markup import escape

from normsmith.checks import every_rule
from normsmith.checks.rule import FROZEN, SEEN


def rules() -> None:
    """List the rules of `normsmith check`."""
    console = Console(highlight=False)
    for rule in every_rule().values():
        severities = "/".join(rule.severities)
        console.print(f"[bold]{rule.code}[/bold] {rule.name}  [dim]{severities}, {rule.level}[/dim]")
        _say(console, rule.title)
    console.print("\n[bold]Levels[/bold]")
    for level, seen in SEEN.items():
        _say(console, f"{level}: {seen}")
    console.print("[bold]Frozen[/bold]")
    _say(console, FROZEN)


def _say(console: Console, text: str) -> None:
    """One paragraph, indented as a whole."""
    wide = max(console.width, 20)
    console.print(escape(fill(text, wide, initial_indent="  ", subsequent_indent="  ")), soft_wrap=True)
