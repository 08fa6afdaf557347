"""Drawings in SVG that stretch with the page: across in shares of the width, down in pixels.

They need no script. Colours are those of the page's style sheet, by class, so that a drawing is right in the dark
and on paper; text keeps its size on a telephone.
"""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

from normsmith._text import cut
from normsmith.report.axes import Axis

_WIDE = 1000  # units of width in a path: nothing finer can be seen


def element(name: str, *inside: object, **attributes: object) -> Markup:
    """An SVG element; `class_` and `stroke_width` are its `class` and `stroke-width`, None leaves one out.

    >>> element("line", x1="0%", stroke_width=2, class_=None)
    Markup('<line x1="0%" stroke-width="2"></line>')
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, Markup("").join(map(escape, inside)))


def drawing(height: int, *inside: object) -> Markup:
    """A drawing of so many pixels, as wide as its place; for those who do not see it, words stand beside it."""
    return element("svg", *inside, width="100%", height=height, aria_hidden="true", focusable="false")


def across(share: float) -> str:
    """A place from left to right.

    >>> across(0.25)
    '25%'
    """
    return f"{100 * share:.5g}%"


def line(x: tuple[float, float], y: tuple[float, float], class_: str) -> Markup:
    """A straight line from one share of the width and pixel to another."""
    return element("line", x1=across(x[0]), x2=across(x[1]), y1=y[0], y2=y[1], class_=class_)


def area(x: tuple[float, float], y: tuple[float, float], class_: str) -> Markup:
    """A rectangle between two shares of the width and two pixels."""
    size = {"width": across(x[1] - x[0]), "height": y[1] - y[0]}
    return element("rect", x=across(x[0]), y=y[0], **size, class_=class_)


def mark(symbol: str, share: float, y: float, class_: str, hint: str = "") -> Markup:
    """One of the page's symbols at a place; `hint` is shown where the pointer rests on it."""
    title = element("title", cut(hint, 200)) if hint else ""
    return element("use", title, href=f"#mark-{symbol}", x=across(share), y=f"{y:.5g}", class_=class_)


def path(
    points: Iterable[Iterable[tuple[float, float]]], height: int, *, close: bool = False, class_: str
) -> Markup:
    """Strokes through points (share of the width, pixel), each stretch apart; closed, they are areas."""
    strokes = (
        "M" + "L".join(f"{_WIDE * share:.4g} {y:.4g}" for share, y in stretch) + ("Z" if close else "")
        for stretch in points
    )
    box = {"viewBox": f"0 0 {_WIDE} {height}", "width": "100%", "height": height}
    inner = element("path", d="".join(strokes), class_=class_)
    return element("svg", inner, **box, preserveAspectRatio="none", overflow="visible")


def grid(axis: Axis, top: float, bottom: float) -> Markup:
    """A thin line at every tick."""
    return Markup("").join(line((share, share), (top, bottom), "grid") for share, _ in axis.ticks)


def labels(axis: Axis, y: float) -> Markup:
    """The labels of an axis from left to right; every second one goes where the page is narrow."""
    crowded = len(axis.ticks) > 4
    return Markup("").join(
        element("text", label, x=across(share), y=y, class_="tick odd" if crowded and i % 2 else "tick")
        for i, (share, label) in enumerate(axis.ticks)
    )
