"""Pages written from the code at each build: one per question, and the command line.

Adding a question or an option therefore edits no page. The pages are not tracked (`docs/.gitignore`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer
from sphinx.application import Sphinx
from typer.cli import get_docs_for_click

from normsmith.cli.app import app as command
from normsmith.studies import Question, every_question


def question_page(question: Question) -> str:
    """The page of one question, from what the question says of itself."""
    module = f"normsmith.studies.questions.{question.name.replace('-', '_')}"
    return f"""# {question.title}

**Claim.** {question.claim}

**Source.** {question.source}.

**Method.** {question.method}

Ask it of the embedded digits, or of your own network:

```console
$ normsmith study digits-mlp -q {question.name}
$ normsmith study my_task.py:task -q {question.name}
```

How arms are tuned, paired and judged is the same for every question: [](../explanation/fairness.md). What the
verdict, the interval and the margin mean: [](../howto/read-a-report.md). The code that asks is `{module}`.
"""


def command_page() -> str:
    """The reference of the command line, as Typer knows it."""
    group = typer.main.get_command(command)
    text = get_docs_for_click(obj=group, ctx=typer.Context(group), name="normsmith")
    for name, verb in group.commands.items():  # type: ignore[attr-defined]
        cut_off, sentence = verb.get_short_help_str(), (verb.help or "").partition("\n")[0]
        text = text.replace(f"`{name}`: {cut_off}", f"`{name}`: {sentence}")
    text = "\n".join(map(_options_as_code, text.split("\n")))
    return re.sub(r"^# .*", "# Command line", text, count=1)


def _options_as_code(line: str) -> str:
    """Two hyphens in a sentence would be typeset as a dash."""
    parts = line.split("`")
    parts[::2] = [re.sub(r"(?<![\w-])--[a-z][a-z-]*", r"`\g<0>`", part) for part in parts[::2]]
    return "`".join(parts)


def write_pages(app: Sphinx) -> None:
    """Write the pages that changed; pages of questions that are gone go too."""
    folder = Path(app.srcdir) / "questions"
    wanted = {folder / f"{name}.md": question_page(question) for name, question in every_question().items()}
    for page in set(folder.glob("*.md")) - {*wanted, folder / "index.md"}:
        page.unlink()
    wanted[Path(app.srcdir) / "reference" / "command-line.md"] = command_page()
    for page, text in wanted.items():
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def plain(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make reStructuredText of our docstrings, which are written to be read as they are.

    Indented paragraphs are formulas and stay as they are typed; `$…$` is code; bars are absolute values and single
    stars are stars. Runs before napoleon.
    """
    if what in {"property", "attribute", "data"} and lines:
        lines[0] = lines[0].replace(": ", " – ", 1)  # napoleon would take what is before a colon for a type
    made: list[str] = []
    example = formula = False
    for line in lines:
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        indented = line.startswith("    ")
        if not formula and indented and len(made) > 1 and not made[-1] and _is_text(made):
            made += ["::", ""]
            formula = True
        formula = formula and (indented or not line)
        made.append(line if example or formula else _escaped(line))
    lines[:] = made


def _is_text(lines: list[str]) -> bool:
    """Whether the last paragraph is plain text at the margin, so that an indented one after it is a formula."""
    last = next((line for line in reversed(lines) if line), "")
    return bool(last) and not last.startswith((" ", "- ", ">>>"))


def _escaped(line: str) -> str:
    parts = re.sub(r"\$([^$]+)\$", r"`\1`", line).split("`")
    for index in range(0, len(parts), 2):  # outside of code
        parts[index] = re.sub(r"(?<!\*)\*(?=\w)(?![^*]*\w\*)", r"\\*", parts[index].replace("|", "\\|"))
    return "`".join(parts)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", plain, priority=400)
    return {"parallel_read_safe": True}
