"""The colours and shapes of a report, light and dark: the one source of its style sheet and of its figures.

Figures name colours (`series-0`, `holds`), which are classes of the style sheet.
Series stay apart under the common colour-vision deficiencies, and each also has a dash and a symbol of its
own. Text has a contrast of 4.5 to its background, lines and marks of 3.
"""

from normsmith.studies.results import Verdict

SERIES = 7
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down")

# A verdict's colour is also the name of its symbol.
VERDICT_COLOURS = {
    Verdict.HOLDS: "holds",
    Verdict.NOT_HERE: "not-here",
    Verdict.REVERSED: "reversed",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.NOT_JUDGED: "not-judged",
}
_LIGHT = {
    "paper": "#fdfcfa",
    "raised": "#f5f3ee",
    "ink": "#1d2129",
    "muted": "#5a606b",
    "rule": "#dedad1",
    "grid": "#e9e6df",
    "claimed": "#f0ede5",
    "axis": "#8b8f98",
    "accent": "#0b5c9e",
    "holds": "#00705a",
    "not-here": "#4d5563",
    "reversed": "#b33a00",
    "inconclusive": "#7d5a00",
    "not-judged": "#5a606b",
}
_DARK = {
    "paper": "#15181e",
    "raised": "#1e222a",
    "ink": "#e8e6e1",
    "muted": "#a5abb6",
    "rule": "#343a45",
    "grid": "#272c35",
    "claimed": "#262d39",
    "axis": "#7b828f",
    "accent": "#7db8ee",
    "holds": "#4fcfae",
    "not-here": "#b4bcc9",
    "reversed": "#ff9466",
    "inconclusive": "#e3b95c",
    "not-judged": "#a5abb6",
}
_LIGHT_SERIES = ("#0b62a4", "#c94f00", "#00856a", "#a3327f", "#8f6a00", "#4b93c9", "#5c5f68")
_DARK_SERIES = ("#6cb2f0", "#ff9a5c", "#3fc7a0", "#ea8fc8", "#dfbb55", "#a9d4f5", "#b3b6be")


def _with_series(named: dict[str, str], series: tuple[str, ...]) -> dict[str, str]:
    lines = {f"series-{i}": colour for i, colour in enumerate(series)}
    tints = {f"{name}-tint": _transparent(named[name], 0.12) for name in VERDICT_COLOURS.values()}
    return {**named, **lines, **tints}


def _transparent(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


PALETTES = {"light": _with_series(_LIGHT, _LIGHT_SERIES), "dark": _with_series(_DARK, _DARK_SERIES)}
