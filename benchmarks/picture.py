"""The picture of `docs/explanation/kernels.md`: a training step's speed against the best peer, from `results/cpu.md`.

`python -m benchmarks.picture` draws it anew from the results that are kept; `make bench` does so at its end.
"""

from __future__ import annotations

import math
import re
from html import escape
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import PEERS
from benchmarks.protocol import RESULTS

PICTURE = Path(__file__).resolve().parents[1] / "docs/explanation/kernels.svg"
_ROW = re.compile(
    r"^\| (?P<case>bn ·[^|]*fp32) \| fresh \| (?P<threads>\d+) \| step \|[^|]*"
    r"\| (?P<torch>[\d.]+)[^|]*\| (?P<others>[^|]*) \|"
)
_OTHER = re.compile(r"([A-Za-z][\w ]*?) ([\d.]+) \(")
_LEFT, _RIGHT, _LINE, _WIDTH = 210, 40, 20, 720
_TICKS = (0.5, 1, 2, 4, 8, 16)


class Row(NamedTuple):
    """A batch, and the best peer's time over ours, with the name of that peer."""

    case: str
    quotient: float
    peer: str


def rows(results: str) -> list[Row]:
    """Those of float32 batch norm on the most threads, the largest quotient first."""
    found = [match.groupdict() for match in map(_ROW.match, results.splitlines()) if match]
    most = max((int(row["threads"]) for row in found), default=0)
    drawn = []
    for row in found:
        if int(row["threads"]) == most:
            peers = {"torch": float(row["torch"])}
            peers |= {name: float(value) for name, value in _OTHER.findall(row["others"]) if name in PEERS}
            peer = min(peers, key=peers.__getitem__)
            drawn.append(Row(row["case"].removeprefix("bn · ").removesuffix(" · fp32"), peers[peer], peer))
    return sorted(drawn, key=lambda row: -row.quotient)


def svg(drawn: list[Row]) -> str:
    """One line for each batch, with a dot at its quotient, on a scale of factors; 1 is as fast as the best peer."""
    height = _LINE * (len(drawn) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for tick in _TICKS:
        x, strong = _at(tick), tick == 1
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{_LINE}" y2="{height - _LINE}" stroke="{"#333" if strong else "#ddd"}"/>'
            f'<text x="{x}" y="{height - 5}" text-anchor="middle">{tick:g}×</text>'
        )
    for number, row in enumerate(drawn):
        y = _LINE * (number + 1.5)
        parts.append(
            f'<text x="{_LEFT - 10}" y="{y + 4:g}" text-anchor="end">{escape(row.case)}</text>'
            f'<circle cx="{_at(row.quotient)}" cy="{y:g}" r="5" fill="{"#1b6ca8" if row.quotient >= 1 else "#c0392b"}">'
            f"<title>{row.quotient:g} times as fast as {escape(row.peer)}</title></circle>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _at(factor: float) -> float:
    """Where a factor stands from left to right."""
    low, high = math.log(_TICKS[0]), math.log(_TICKS[-1])
    share = (min(max(math.log(factor), low), high) - low) / (high - low)
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def draw() -> None:
    """Write the picture of the results that are kept."""
    PICTURE.write_text(svg(rows((RESULTS / "cpu.md").read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    draw()
