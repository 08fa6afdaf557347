"""`normsmith explain`: what a rule looks for, why it matters, and how to mend it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from textwrap import wrap
from typing import Annotated

import typer
from rich.console import Console

from normsmith.checks import Rule, named_rule
from normsmith.checks.rule import FROZEN, SECTIONS, SEEN, THREADS

WIDEST = 100
"""Columns; longer lines are hard to read."""
_JOINT = "\0"
"""Stands for a space in code, at which no line may be broken."""


def explain(
    rule: Annotated[str, typer.Argument(help="A code or a name, as NS404 or stale-statistics.")],
) -> None:
    """Explain a rule: what, formula, why it hurts, threshold, a reproduction, the fix, and where people met it."""
    sys.stdout.write(explained(named_rule(rule), min(Console().width, WIDEST)))


def explained(rule: Rule, width: int) -> str:
    """A rule's explanation in lines of at most so many columns; code alone may be wider.

    >>> print(explained(Rule("NS000", "nothing", "info", lambda _: (), "None.\\n\\nFix: take `x = 1`."), 20))
    NS000 nothing
    (information; from
    level fast on, which
    looks at modules,
    settings and
    buffers)
    <BLANKLINE>
    None.
    <BLANKLINE>
    Fix: take `x = 1`.
    <BLANKLINE>
    """
    *others, last = ("information" if s == "info" else s for s in rule.severities)
    severities = f"{', '.join(others)} or {last}" if others else last
    head = f"{rule.code} {rule.name} ({severities}; from level {rule.level} on, which looks at {SEEN[rule.level]})"
    lines = [head, "", *rule.explanation.strip().splitlines()]
    if "frozen" in rule.explanation:
        lines += ["", FROZEN]
    if "Threads" in rule.sections:
        lines += ["", f"Threads are {THREADS}."]
    return "\n".join(_folded(lines, width)) + "\n"


def _folded(lines: list[str], width: int) -> Iterator[str]:
    """Paragraphs and items in lines of that width, code and empty lines as they are."""
    paragraph: list[str] = []
    in_program = False
    for line in lines:
        if line and not line.startswith(" "):
            in_program = line == "Reproduction:"
        is_code = in_program or line.startswith(" " * 8)
        indent = len(line) - len(line.lstrip())
        if paragraph and (is_code or not line or _is_item(line) or (_is_item(paragraph[0]) and indent <= 4)):
            yield from _paragraph(paragraph, width)
            paragraph = []
        if is_code or not line:
            yield line
        else:
            paragraph.append(line)
    yield from _paragraph(paragraph, width)


def _is_item(line: str) -> bool:
    return line.startswith("    - ")


def _paragraph(lines: list[str], width: int) -> list[str]:
    """One paragraph, or one item of a list, in lines of that width; code in backticks stays in one line."""
    first = lines[0] if lines else ""
    text = " ".join(line.strip() for line in lines)
    whole = re.sub("`[^`]*`", lambda code: code[0].replace(" ", _JOINT), text)
    indent = " " * (len(first) - len(first.lstrip()))
    hang = (
        "      " if text.startswith("- ") else "    " if indent or first.partition(":")[0] in SECTIONS else ""
    )
    folded = wrap(
        whole,
        width,
        initial_indent=indent,
        subsequent_indent=hang,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_JOINT, " ") for line in folded]
