"""Findings in a notebook."""

from __future__ import annotations

from tests.checks.networks import mlp, vectors

import normsmith
from normsmith.checks import Finding, Findings, Fix, NotRun, Proof

FOUND = Finding(
    "<b>", "is & so", "because", Fix("mend(1 < 2)"), severity="error", code="NS1", name="a",
    proof=Proof((0.9, 0.2), None, 6),
)  # fmt: skip


def test_a_notebook_shows_the_findings():
    findings = normsmith.check(mlp(momentum=0.99), vectors(), level="fast")
    shown = findings._repr_html_()
    assert "NS201 inverted-momentum" in shown
    assert "from level standard on" in shown
    assert findings.summary in shown


def test_what_others_wrote_stays_text():
    shown = Findings((FOUND,), (), (NotRun("<script>", "NS2", "b"),))._repr_html_()
    for text in ("&lt;b&gt;", "is &amp; so", "mend(1 &lt; 2)", "&lt;script&gt;", "loss 0.9 → 0.2"):
        assert text in shown
    assert "<script>" not in shown


def test_many_are_counted():
    assert "and 30 more" in Findings((FOUND,) * 80, (), ())._repr_html_()


def test_nothing_is_said_in_words():
    shown = Findings((), ("NS1",), ())._repr_html_()
    assert "nothing found" in shown
    assert "<table" not in shown
