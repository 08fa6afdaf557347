"""Colours: text and lines stand out, and lines are told apart by every eye."""

from itertools import combinations

import numpy as np
import pytest

from normsmith.report import palette
from normsmith.studies.results import Verdict


def _linear(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def _contrast(one, other):
    light, dark = sorted((_linear(c) @ (0.2126, 0.7152, 0.0722) for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", palette.PALETTES.values(), ids=palette.PALETTES)
def test_text_and_lines_stand_out_from_the_page(colours):
    words = ["ink", "muted", "accent", *palette.VERDICT_COLOURS.values()]
    assert {name: _contrast(colours[name], colours["paper"]) >= 4.5 for name in words} == dict.fromkeys(
        words, True
    )
    lines = [f"series-{i}" for i in range(palette.SERIES)]
    assert {name: _contrast(colours[name], colours["paper"]) >= 3 for name in lines} == dict.fromkeys(
        lines, True
    )


# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
_DEFICIENCIES = {
    "none": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def _lab(linear):
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("matrix", _DEFICIENCIES.values(), ids=_DEFICIENCIES)
@pytest.mark.parametrize("colours", palette.PALETTES.values(), ids=palette.PALETTES)
def test_the_first_four_lines_differ_in_colour_for_every_eye(colours, matrix):
    seen = [_lab(np.array(matrix) @ _linear(colours[f"series-{i}"])) for i in range(4)]
    nearest = min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2))
    assert nearest > 10  # four times a difference that is just noticed


def test_each_verdict_has_a_colour():
    assert set(palette.VERDICT_COLOURS) == set(Verdict)
