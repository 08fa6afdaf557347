"""The picture of how the channels of layers lie against what they should be."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from tests.report import samples

from normsmith.checks.shift import Shift
from normsmith.report.channels import channel_figures

FINDING = samples.findings().found[0]


def finding(path, mean, log_variance):
    away = Shift(torch.tensor(mean), torch.tensor(log_variance), torch.tensor([True] * len(mean)))
    return replace(FINDING, path=path, evidence=away.to_dict("running statistics", "the data"))


def test_means_and_variances_have_a_figure_each_with_all_layers():
    shown = [finding("1", [-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]), finding("2", [0.5], [math.log(2.0)])]
    means, variances = channel_figures(shown)
    assert means.title == "Means, layer by layer: running statistics against the data"
    assert [panel.label for panel in means.panels] == ["1", "2", ""]
    assert means.rows[0] == ("1", "−1", "−0.9", "−0.5", "0", "0.5", "0.9", "1")
    assert variances.rows[1] == ("2", *["2"] * 7)
    assert variances.x_title == "variance, as a multiple of that of the data"


def test_findings_without_channels_have_none():
    assert list(channel_figures([FINDING])) == []


def test_many_layers_are_in_the_table_alone():
    means, _ = channel_figures([finding(str(i), [0.5], [0.0]) for i in range(40)])
    assert (len(means.panels), len(means.rows)) == (13, 40)


def test_what_is_not_finite_is_no_bar():
    broken = finding("1", [0.5], [800.0])
    _, variances = channel_figures([broken])
    assert "rect" in variances.panels[0].drawing  # what is allowed
    assert "bar" not in variances.panels[0].drawing
