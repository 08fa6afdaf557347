"""One offline page from a template: styled, safe against what users named, and without a request."""

import base64
import hashlib
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from normsmith import _text
from normsmith._extras import imports_of_extra
from normsmith.report import palette

if TYPE_CHECKING:
    from jinja2 import Environment

_LONGEST, _LONGEST_NAME = 2000, 120  # characters of what somebody wrote, and of a name
_TURNS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F])
"""Characters that change the direction of the text after them: dropped."""
_POLICY = (
    "default-src 'none'; script-src {hash}; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def rendered(template: str, **content: Any) -> str:
    """The page that a template makes of its content, with the palettes, the style sheet and the script of all pages."""
    script = template_text("report.js")
    page = (
        _environment()
        .get_template(template)
        .render(
            palettes=palette.PALETTES,
            style=template_text("report.css"),
            script=script,
            policy=_POLICY.format(hash=f"'sha256-{_hash(script)}'"),
            **content,
        )
    )
    return _text.encodable(page).translate(_TURNS)


@cache
def template_text(name: str) -> str:
    """The text of a file beside the templates."""
    return (files("normsmith.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> "Environment":
    with imports_of_extra("study", "the HTML report"):
        from jinja2 import Environment, PackageLoader, StrictUndefined
    environment = Environment(
        loader=PackageLoader("normsmith.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_readable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["name"] = partial(_text.cut, most=_LONGEST_NAME)
    environment.globals["text"] = _text
    return environment


def _readable(value: object) -> object:
    """What a template writes: text that somebody else wrote does not run on for megabytes."""
    return _text.cut(value, _LONGEST) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
