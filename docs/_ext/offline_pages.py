"""The gallery and the explorer link to pages as they lie beside them in the repository; built, those are HTML."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx


def built(page: str) -> str:
    """A page whose links to Markdown files go to what is built of them.

    >>> built('<a href="claims.md#small-batches">')
    '<a href="claims.html#small-batches">'
    """
    return re.sub(r'(href="[\w/.-]+)\.md(?=["#])', r"\1.html", page)


def link_to_built_pages(app: Sphinx, exception: Exception | None) -> None:
    """Rewrite the copies of offline pages in the output, once all is built."""
    for name in app.config.html_extra_path if exception is None else []:
        page = Path(app.outdir) / name
        if page.exists():
            page.write_text(built(page.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", link_to_built_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
