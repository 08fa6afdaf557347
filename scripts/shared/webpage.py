"""Offline pages in the look of the reports, from a template, a style sheet and a script of their own."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined
from markupsafe import Markup

from normsmith import _text
from normsmith.report import palette
from normsmith.report.page import template_text
from normsmith.studies import notation

POLICY = "default-src 'none'; script-src 'sha256-{}'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def rendered(folder: Path, script: str, **content: Any) -> str:
    """The page that `page.html.j2` in a folder makes of its content, with the `page.css` beside it and one script.

    It makes no request: its policy admits the script by its hash, and nothing from elsewhere.
    """
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(folder), PackageLoader("normsmith.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["name"] = str
    return environment.get_template("page.html.j2").render(
        palettes=palette.PALETTES,
        verdict_colours=palette.VERDICT_COLOURS,
        notation=notation,
        text=_text,
        style=Markup(template_text("report.css") + (folder / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        policy=POLICY.format(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        **content,
    )
