"""Verdicts on a terminal: a table, then a sentence a question, then what did not finish."""

import unicodedata

from rich.box import HORIZONTALS
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from normsmith import _text
from normsmith.report import failures
from normsmith.studies import notation
from normsmith.studies.results import Effect, StudyResult, Verdict

_STYLES = {
    Verdict.HOLDS: "bold green",
    Verdict.NOT_HERE: "bold",
    Verdict.REVERSED: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NOT_JUDGED: "dim",
}
_MOST_FAILURES = 5  # groups printed one by one; the report has them all
_ASCII = str.maketrans(
    {"−": "-", "×": "x", "–": "-", "—": "-", "…": "...", "±": "+/-", "·": "-", "“": '"', "”": '"', "’": "'"}
)


def print_verdicts(result: StudyResult, console: Console) -> None:
    """Print what `result` found, readable in 80 columns, without colour and on an ASCII terminal."""
    safe = _SafeText(console)
    if first := failures.nothing_finished(result):
        console.print(safe(first, "bold red"))
        console.print()
    if any(answer.effects for answer in result.answers):
        console.print(_table(result, safe, narrow=console.width < 100))
    for answer in result.answers:
        console.print()
        console.print(safe(answer.title, "bold"))
        console.print(safe(answer.headline))
    for question, reason in result.skipped.items():
        console.print()
        console.print(safe(f"Not asked: {question}. {reason}"))
    if not result.answers:
        console.print(safe("No question was answered."))
    console.print()
    _print_failures(result, safe, console)
    console.print(safe(_trials(result)))
    for note in result.notes:
        console.print(safe(note, "bold"))


class _SafeText:
    """Turns any words, a user's included, into text that a console can show and that cannot control the terminal."""

    def __init__(self, console: Console) -> None:
        self.ascii = console.options.ascii_only

    def __call__(self, text: str, style: str = "") -> Text:
        # Control characters could move the cursor or change its colours.
        clean = "".join(" " if unicodedata.category(c) in {"Cc", "Cf"} else c for c in text)
        if self.ascii:
            clean = clean.translate(_ASCII).encode("ascii", "replace").decode()
        return Text(clean, style=style)


def _table(result: StudyResult, safe: _SafeText, *, narrow: bool) -> Table:
    table = Table(box=HORIZONTALS, title=safe(result.task), title_justify="left", title_style="bold")
    interval = notation.interval_name(effect for answer in result.answers for effect in answer.effects)
    table.add_column("question", overflow="fold", ratio=3)
    table.add_column("hypothesis", overflow="fold", ratio=4)
    table.add_column(safe(f"effect ({interval})"), overflow="fold", ratio=4)
    table.add_column("p (Holm)", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=12)
    for answer in result.answers:
        for i, effect in enumerate(answer.effects):
            cells = [safe(answer.question if i == 0 else ""), *_cells(effect, safe, narrow=narrow)]
            table.add_row(*cells, end_section=effect is answer.effects[-1])
    return table


def _cells(effect: Effect, safe: _SafeText, *, narrow: bool) -> list[Text]:
    measured = notation.estimate_and_interval(effect)
    lines = [measured.replace(" (", "\n(") if narrow else measured, notation.censoring(effect)]
    return [
        safe(effect.name),
        Text("\n").join(safe(part) for line in lines if line for part in line.split("\n")),
        safe("" if effect.verdict is Verdict.NOT_JUDGED else _text.probability(effect.p_adjusted)),
        safe(effect.verdict.value, _STYLES[effect.verdict]),
    ]


def _print_failures(result: StudyResult, safe: _SafeText, console: Console) -> None:
    console.print(safe(failures.summary(result.failures)))
    failed = [group for group in failures.grouped(result.failures) if group.status != "diverged"]
    lines = [f"{g.arm}, {g.setting}, {_seeds(g)}: {g.reasons[0]}" for g in failed[:_MOST_FAILURES]]
    if len(failed) > _MOST_FAILURES:
        lines.append(f"and {_text.count(len(failed) - _MOST_FAILURES, 'more group')}")
    for line in lines:
        console.print(Padding(safe(line), (0, 0, 0, 2), expand=False))


def _seeds(group: failures.FailureGroup) -> str:
    return f"{'seed' if group.trials == 1 else 'seeds'} {group.seeds}"


def _trials(result: StudyResult) -> str:
    new, reused = _text.count(result.trials_new, "trial"), result.trials_reused
    return f"{new} run in {_text.duration(result.seconds)}, {reused:,} reused from the store."
