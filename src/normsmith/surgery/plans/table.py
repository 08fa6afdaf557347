"""What a plan does as a table of text: one line each where that fits, or else reasons on lines of their own."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

Row = tuple[str, str, str]
"""A path, what becomes of it, and why."""

WIDTH = 100
_INDENT = "      "
_CALL = re.compile(r"\((?:[^()]|\([^()]*\))*\)")
_LONGEST_CALL = 28


def table(rows: Sequence[Row], width: int = WIDTH) -> list[str]:
    """Rows as lines of at most `width` columns, of which only a longer word may be wider.

    Where the rows do not fit side by side, a reason stands below the rows that it belongs to, long paths and changes
    go on in the next line, and the arguments of layers are cut.

    >>> print("\\n".join(table([("a", "ReLU() → Tanh()", "asked for"), ("b.c", "kept", "it is one already")])))
      a    ReLU() → Tanh()  asked for
      b.c  kept             it is one already
    >>> print("\\n".join(table([("a", "ReLU() → Tanh()", "asked for"), ("b", "kept", "it is one already")], 30)))
      a  ReLU() → Tanh()
          asked for
      b  kept
          it is one already
    """
    paths, whats = (max((len(row[column]) for row in rows), default=0) for column in range(2))
    side_by_side = [f"  {path:<{paths}}  {what:<{whats}}  {why}".rstrip() for path, what, why in rows]
    if all(len(line) <= width for line in side_by_side):
        return side_by_side
    short = [(path, _CALL.sub(_cut, what), why) for path, what, why in rows]
    column = max((len(path) for path, what, _ in short if len(path) + len(what) + 4 <= width), default=0)
    return [
        line
        for why, run in groupby(short, lambda row: row[2])
        for line in _run(list(run), why, column, width)
    ]


def _run(rows: Sequence[Row], why: str, column: int, width: int) -> Iterator[str]:
    """Rows that have one reason, and the reason."""
    for path, what, _ in rows:
        lines = (f"  {path:<{column}}  {what}", f"  {path}  {what}")
        line = next((line for line in lines if len(line) <= width), None)
        if line is not None:
            yield line
        else:
            yield from _folded(path, width, "  ", "    ")
            yield from _folded(what, width, "    ", "        ")
    yield from _folded(why, width, _INDENT, _INDENT)


def _folded(text: str, width: int, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _cut(call: re.Match[str]) -> str:
    """The arguments of a layer, or the first of them where they are many."""
    arguments = call[0]
    if len(arguments) <= _LONGEST_CALL:
        return arguments
    last = arguments.rfind(", ", 0, _LONGEST_CALL - 4)
    return f"{arguments[:last]}, …)" if last > 0 else "(…)"
