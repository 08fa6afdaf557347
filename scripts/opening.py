#!/usr/bin/env python3
"""Run examples/averaged.py, and put what it prints, and its picture, at the beginning of the README.

    make opening

The picture is docs/_static/averaged.svg: where the gap between training and evaluation comes from.
"""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from figures import between, where  # noqa: E402  beside this file

from normsmith.checks import Finding  # noqa: E402
from normsmith.report import palette, svg  # noqa: E402
from normsmith.report.gap import gap_figure  # noqa: E402
from normsmith.report.plots import Figure, Panel  # noqa: E402

README, PICTURE = ROOT / "README.md", ROOT / "docs/_static/averaged.svg"
EXAMPLE = ROOT / "examples/averaged.py"
BEGIN, END = "<!-- from examples/averaged.py: make opening -->", "<!-- end of what it prints -->"
WIDTH, LEFT, TOP, ROW = 760, 24, 84, 54
STYLE = """text { font: 14px system-ui, sans-serif; fill: var(--ink); } .tick, .muted { fill: var(--muted); }
.tick { font-size: 13px; text-anchor: middle; } .title { font-weight: 600; font-size: 16px; }
.grid { stroke: var(--grid); } .base { stroke: var(--axis); } use { fill: currentColor; }
.bar { fill: currentColor; fill-opacity: .75; } .series-0 { color: var(--series-0); } .ink { color: var(--ink); }
.open { fill: var(--paper); stroke: currentColor; stroke-width: 2.2; } .paper { fill: var(--paper); }"""
SYMBOLS = """<defs><circle id="mark-circle-open" r="3.6" class="open"/>
<path id="mark-diamond-open" class="open" d="M0-4.8L4.8 0 0 4.8-4.8 0z"/>
<path id="mark-square" d="M-3.6-3.6h7.2v7.2h-7.2z"/></defs>"""


def main() -> None:
    printed, findings = example()
    (finding,) = [finding for finding in findings if finding.evidence]
    PICTURE.write_text(picture(finding), encoding="utf-8")
    README.write_text(with_example(README.read_text(encoding="utf-8"), printed), encoding="utf-8")


def example() -> tuple[str, Any]:
    """What the example prints, and its findings."""
    namespace = runpy.run_path(str(EXAMPLE))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        findings = namespace["main"]()
    return printed.getvalue().strip(), findings


def with_example(page: str, printed: str) -> str:
    """README with what the example prints."""
    at = where()
    printed = re.sub("^not run: .*(\n^not run: .*)*", "…", printed, flags=re.MULTILINE)
    said = f"Printed on {at['machine']}, {at['instruction_set']}, torch {torch.__version__}, commit {at['commit']}."
    return between(page, f"```text\n{printed}\n```\n\n{said}", BEGIN, END)


def picture(finding: Finding) -> str:
    """The figure of a finding as a file of its own, right in the dark as well."""
    figure = gap_figure(finding)
    assert figure is not None  # its evidence has steps
    *panels, scale = figure.panels
    rows = [row(panel, TOP + ROW * index) for index, panel in enumerate(panels)]
    end = TOP + ROW * len(panels)
    height = end + 68
    parts = [
        Markup('<rect width="100%" height="100%" class="paper" rx="8"/>'),
        svg.element("text", figure.title, x=LEFT, y=32, class_="title"),
        key(figure),
        *rows,
        placed(scale.drawing, end + 2),
        svg.element("text", figure.x_title, x=WIDTH / 2, y=height - 12, class_="tick"),
    ]
    style = f":root {{{colours('light')}}} @media (prefers-color-scheme: dark) {{:root {{{colours('dark')}}}}} {STYLE}"
    box = (
        f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    )
    label = svg.element("title", figure.title)
    return f'<svg {box} role="img">{label}<style>{style}</style>{SYMBOLS}{Markup("").join(parts)}</svg>\n'


def colours(theme: str) -> str:
    used = ("paper", "ink", "muted", "grid", "axis", "series-0")
    return " ".join(f"--{name}: {palette.PALETTES[theme][name]};" for name in used)


def key(figure: Figure) -> Markup:
    """What the shapes are, side by side."""
    parts, x = [], float(LEFT)
    for entry in figure.key:
        mark = svg.element("use", href=f"#mark-{entry.symbol}", x=x + 6, y=56, class_=entry.colour)
        parts += [mark, svg.element("text", entry.label, x=x + 18, y=61, class_="muted")]
        x += 40 + 7.2 * len(entry.label)
    return Markup("").join(parts)


def row(panel: Panel, top: int) -> Markup:
    """A panel with its words above it."""
    words = svg.element("text", f"{panel.label}  {panel.note}", x=LEFT, y=top + 14)
    return words + placed(panel.drawing, top + 22)


def placed(drawing: Markup, top: int) -> Markup:
    """A drawing, as wide as its place, so many pixels from the top."""
    return svg.element("svg", drawing, x=LEFT, y=top, width=WIDTH - 2 * LEFT, overflow="visible")


if __name__ == "__main__":
    main()
