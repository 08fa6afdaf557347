"""Functions that put numbers elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from unpadded import Runs, assert_as_alone, run_padded

from normsmith.errors import LengthsError


def smoothed(x: torch.Tensor) -> torch.Tensor:
    """With zeros at both ends, which are somewhere else in each sample."""
    return F.avg_pool1d(x, 3, 1, 1)


SAMPLES = [torch.randn(1, 4, n) for n in (8, 5)]


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: x.permute(2, 0, 1).movedim(0, -1).transpose(1, 2).mT, id="there and back"),
        pytest.param(lambda x: x.reshape(x.shape[0], 2, 2, -1).flatten(1, 2), id="channels in groups"),
        pytest.param(lambda x: torch.cat([x[:, :2], x[:, 2:].flip(1)], dim=1), id="channels shuffled"),
        pytest.param(lambda x: torch.stack(x.split(2, dim=1)).sum(0), id="in parts"),
        pytest.param(lambda x: F.glu(x, dim=1).cumsum(-1), id="a running sum from the beginning"),
        pytest.param(lambda x: torch.cat([torch.ones(len(x), 4, 1), x], dim=-1).sum(-1), id="a first token"),
        pytest.param(lambda x: F.pad(x, (2, 1), value=2.0).sum(-1), id="padded with twos"),
        pytest.param(lambda x: F.pad(x, (1, 12 - x.size(-1))).mean(-1), id="padded up to a size"),
        pytest.param(lambda x: F.pad(x, (-1, -2)), id="cut on both sides"),
        pytest.param(lambda x: F.normalize(x, dim=1).unsqueeze(1).squeeze(1), id="normalised over channels"),
        pytest.param(
            lambda x: x.unsqueeze(1).expand(-1, 3, -1, -1).repeat(1, 1, 2, 1).sum((1, 2)), id="repeated"
        ),
        pytest.param(
            lambda x: smoothed(x.mean(-1, keepdim=True).expand(-1, -1, x.size(-1))), id="as long as it was"
        ),
        pytest.param(lambda x: smoothed(x.mean(-1, keepdim=True).expand_as(x)), id="as another tensor"),
        pytest.param(
            lambda x: smoothed(x.mean(-1, keepdim=True).repeat(1, 1, x.size(-1))), id="again and again"
        ),
        pytest.param(lambda x: x.topk(2, 1)[0] + x.sort(1)[0][:, :2], id="sorted channels"),
        pytest.param(lambda x: x.mean(-1) * (x.numel() / x.size(-1)), id="numbers are counted"),
        pytest.param(lambda x: torch.stack(list(x.unbind(1)), -1), id="channels unbound"),
    ],
)
def test_each_sample_is_what_it_is_alone(function) -> None:
    assert_as_alone(Runs(function), SAMPLES)


def test_pixels_are_shuffled() -> None:
    images = [torch.randn(1, 8, 3, 4), torch.randn(1, 8, 2, 5)]
    assert_as_alone(nn.PixelShuffle(2), images, (-2, -1))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: F.pad(x, (1, 1), mode="reflect"), "'reflect' reads what is beyond the end"),
        (lambda x: x.reshape(x.shape[0], -1, 4), "cuts up"),
        (lambda x: torch.cat([x, x], dim=-1), "joined along samples or lengths"),
        (lambda x: torch.cat([x, x], dim=0), "joined along samples or lengths"),
        (lambda x: torch.stack([row.mean(-1) for row in x]), "along dimension 0, of samples"),
        (lambda x: F.pad(x, (x.size(-1), 0)), "the padding on the left"),
        (lambda x: x.transpose(0, 2).chunk(2), "along dimension 0"),
        (lambda x: x.repeat(1, 1, 2), "changes from"),
        (
            lambda x: x.mean(-1, keepdim=True).expand(-1, -1, x.size(-1) // 2),
            "computed from that of the padded",
        ),
        (lambda x: x.index_select(0, torch.tensor([0, 0])), "selected"),
        (lambda x: x.view(torch.int32), "another dtype"),
    ],
)
def test_what_goes_over_the_end_is_refused(function, words) -> None:
    with pytest.raises(LengthsError, match=words):
        run_padded(function, SAMPLES)


def test_samples_in_another_order_keep_their_lengths() -> None:
    def turned(x: torch.Tensor) -> torch.Tensor:
        order = torch.arange(len(x) - 1, -1, -1)
        return F.conv1d(x.index_select(0, order), torch.ones(4, 4, 3)).index_select(0, order)

    assert_as_alone(Runs(turned), SAMPLES)
