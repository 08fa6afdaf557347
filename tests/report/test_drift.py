"""The picture of batches beside each other."""

from __future__ import annotations

from dataclasses import replace

from tests.report import samples

from normsmith.report.drift import drift_figures

FINDING = samples.findings().found[0]


def test_each_batch_is_a_point_against_the_band_of_random_draws():
    evidence = {"batches": {"values": [-1.0, 0.0, 1.0], "errors": [0.25, 0.25, 0.5]}}
    (figure,) = drift_figures([FINDING, replace(FINDING, evidence=evidence)])
    assert figure.rows[0] == ("1", "−1", "0 (−0.5 to 0.5)")
    assert figure.rows[2] == ("3", "1", "0 (−1 to 1)")
    assert [entry.label for entry in figure.key] == ["batches", "where batches drawn at random would lie"]
