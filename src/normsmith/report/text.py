"""Verdicts on a terminal: a table where there is room, each verdict with its reason, then what did not finish."""

import unicodedata

from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table
from rich.text import Text

from normsmith import _text
from normsmith.report import failures, words
from normsmith.studies import notation
from normsmith.studies.results import Answer, Effect, StudyResult, Verdict

_STYLES = {
    Verdict.HOLDS: "bold green",
    Verdict.NOT_HERE: "bold",
    Verdict.REVERSED: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NOT_JUDGED: "dim",
}
_TABLE_FROM = 100  # columns: in fewer, a table would break words
_LONGEST = 2000  # characters of anything that somebody wrote
_MOST_FAILURES = 5  # groups printed one by one; the report has them all
_ASCII = str.maketrans(
    {"−": "-", "×": "x", "–": "-", "—": "-", "…": "...", "±": "+/-", "·": "-", "“": '"', "”": '"', "’": "'"}
)


class _SafeText:
    """Turns any words, a user's included, into text that a console can show and that cannot control the terminal."""

    def __init__(self, console: Console) -> None:
        self.ascii = console.options.ascii_only

    def __call__(self, text: str, style: str = "") -> Text:
        # Control characters could move the cursor or change its colours.
        cut = _text.encodable(_text.cut(text, _LONGEST))
        clean = "".join(" " if unicodedata.category(c) in {"Cc", "Cf"} else c for c in cut)
        if self.ascii:
            clean = clean.translate(_ASCII).encode("ascii", "replace").decode()
        return Text(clean, style=style)


def print_verdicts(result: StudyResult, console: Console) -> None:
    """Print what `result` found, in words of any width from 40 columns on, without colour and on an ASCII terminal."""
    safe = _SafeText(console)
    if first := failures.nothing_finished(result):
        _say(console, safe(first, "bold red"))
        console.print()
    if console.width >= _TABLE_FROM and any(answer.effects for answer in result.answers):
        console.print(_table(result, safe))
    else:
        _say(console, safe(result.task, "bold"))
    for answer in result.answers:
        console.print()
        _print_answer(answer, safe, console)
    for questions, reason in result.not_asked:
        console.print()
        _say(console, safe(f"Not asked: {questions}: {reason}"))
    if not result.answers:
        _say(console, safe("No question was answered."))
    console.print()
    _print_failures(result, safe, console)
    _say(console, safe(_trials(result)))
    for note in result.notes:
        _say(console, safe(note, "bold"))
    if result.recommendation:
        console.print()
        _say(console, safe(result.recommendation, "bold"))


def _print_answer(answer: Answer, safe: _SafeText, console: Console) -> None:
    """The answer to one question, and why each hypothesis has its verdict."""
    _say(console, safe(answer.title, "bold"))
    _say(console, safe(answer.headline))
    if answer.look:
        _say(console, safe(f"Judged at {words.looked(answer.look)}."))
    for effect in answer.effects:
        verdict = safe(effect.verdict.value, _STYLES[effect.verdict])
        reason = "dim" if effect.verdict is Verdict.NOT_JUDGED else ""
        _say(console, Text.assemble(verdict, ": ", safe(effect.name)), indent=2)
        _say(console, safe(words.finding(effect), reason), indent=4)


def _say(console: Console, text: Text, indent: int = 0) -> None:
    """Print folded between words, without blanks at the ends of lines."""
    for line in text.wrap(console, max(1, console.width - indent)):
        line.rstrip()
        console.print(Text.assemble(" " * indent, line), soft_wrap=True)


def _table(result: StudyResult, safe: _SafeText) -> Table:
    table = Table(box=HORIZONTALS, title=safe(result.task), title_justify="left", title_style="bold")
    interval = notation.interval_name(effect for answer in result.answers for effect in answer.effects)
    for column in ("hypothesis", "treatment", "control", f"effect ({interval})"):
        table.add_column(safe(column), overflow="fold", ratio=4 if column == "hypothesis" else 3)
    table.add_column("p (Holm)", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=12)
    for answer in result.answers:
        if answer.effects:
            table.add_row(safe(answer.question, "bold"))
        for effect in answer.effects:
            table.add_row(*_cells(effect, safe), end_section=effect is answer.effects[-1])
    return table


def _cells(effect: Effect, safe: _SafeText) -> list[Text]:
    measured = filter(None, (notation.estimate_and_interval(effect), notation.censoring(effect)))
    return [
        safe(effect.name),
        safe(effect.treatment),
        safe(effect.control),
        Text("\n").join(map(safe, measured)),
        safe("" if effect.verdict is Verdict.NOT_JUDGED else _text.probability(effect.p_adjusted)),
        safe(effect.verdict.value, _STYLES[effect.verdict]),
    ]


def _print_failures(result: StudyResult, safe: _SafeText, console: Console) -> None:
    _say(console, safe(failures.summary(result.failures)))
    failed = [group for group in failures.grouped(result.failures) if group.status != "diverged"]
    lines = [f"{g.arm}, {g.setting}, {_seeds(g)}: {g.reasons[0]}" for g in failed[:_MOST_FAILURES]]
    if len(failed) > _MOST_FAILURES:
        lines.append(f"and {_text.count(len(failed) - _MOST_FAILURES, 'more group')}")
    for line in lines:
        _say(console, safe(line), indent=2)


def _seeds(group: failures.FailureGroup) -> str:
    return f"{'seed' if group.trials == 1 else 'seeds'} {group.seeds}"


def _trials(result: StudyResult) -> str:
    new, reused = _text.count(result.trials_new, "trial"), result.trials_reused
    return f"{new} run in {_text.duration(result.seconds)}, {reused:,} reused from the store."
