"""One page from a template: it admits its own script alone, and nothing that turns text around."""

from __future__ import annotations

import base64
import hashlib
import re

from tests.report import samples

from normsmith.report.check_html import findings_to_html
from normsmith.report.page import template_text


def test_the_policy_admits_the_script_of_the_page():
    page = findings_to_html(samples.findings())
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_every_template_reads_the_palettes_and_the_style():
    for name in ("report.html.j2", "check.html.j2"):
        assert {"palettes", "style", "script", "policy"} <= set(re.findall(r"\w+", template_text(name)))


def test_signs_that_turn_text_around_are_dropped():
    findings = samples.findings()
    page = findings_to_html(type(findings)((), ("evil\u202egnihtemos",), ()))
    assert "evilgnihtemos" in page
