"""Interpolation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from unpadded import Runs, assert_as_alone, run_padded

from normsmith.errors import LengthsError

SAMPLES = [torch.randn(1, 2, n) for n in (9, 5, 12)]
IMAGES = [torch.randn(1, 2, *size) for size in ((6, 9), (7, 4))]


@pytest.mark.parametrize(
    "options",
    [
        {"scale_factor": 2},
        {"scale_factor": 1.5, "mode": "linear"},
        {"scale_factor": 0.5, "mode": "nearest-exact"},
        {"scale_factor": 2, "mode": "linear", "align_corners": True},
        {"size": 7, "mode": "linear"},
    ],
    ids=str,
)
def test_along_time(options) -> None:
    assert_as_alone(Runs(lambda x: F.interpolate(x, **options)), SAMPLES)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [2, (1, 3)])
def test_images(mode, factor) -> None:
    assert_as_alone(Runs(lambda x: F.interpolate(x, scale_factor=factor, mode=mode)), IMAGES, (-2, -1))


def test_up_to_the_size_of_another_tensor() -> None:
    """As networks do that come up to the size of their skip connections."""
    nearest = Runs(lambda x: x + F.interpolate(F.max_pool1d(x, 2), size=x.shape[2:]))
    assert_as_alone(nearest, [torch.randn(1, 2, n) for n in (10, 4)], more=2)
    linear = Runs(lambda x: x + F.interpolate(F.max_pool1d(x, 2), size=x.shape[2:], mode="linear"))
    assert_as_alone(linear, SAMPLES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 7}, "another factor, which mode 'nearest' is not followed through"),
        ({"scale_factor": 0.5, "mode": "area"}, "mode 'area'"),
        ({"scale_factor": 1.3, "recompute_scale_factor": True}, "computed anew"),
        ({"scale_factor": 0.1}, "nothing is left"),
    ],
    ids=str,
)
def test_what_depends_on_the_length_is_refused(options, words) -> None:
    with pytest.raises(LengthsError, match=words):
        run_padded(lambda x: F.interpolate(x, **options), SAMPLES)
