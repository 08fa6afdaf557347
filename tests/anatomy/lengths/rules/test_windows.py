"""Convolutions and poolings."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from unpadded import Runs, assert_as_alone, run_padded

from normsmith.errors import LengthsError

SAMPLES = [torch.randn(1, 4, n) for n in (12, 7, 20)]
IMAGES = [torch.randn(1, 4, *size) for size in ((12, 9), (7, 16))]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2),
        nn.Conv1d(4, 4, 5, padding="same", dilation=2, groups=2),
        nn.Conv1d(4, 4, 3, padding="valid"),
        nn.ConvTranspose1d(4, 4, 4, stride=3, padding=2, output_padding=1, dilation=2),
        nn.MaxPool1d(3, 2, padding=1, ceil_mode=True),
        nn.MaxPool1d(2, dilation=2),
        nn.AvgPool1d(3, 2, padding=1),
        nn.AvgPool1d(3, 2, padding=1, count_include_pad=False),
        nn.AvgPool1d(4, 3, ceil_mode=True),
        nn.Conv1d(4, 4, 3, padding=1, padding_mode="zeros", bias=False),
    ],
    ids=repr,
)
def test_along_time(layer) -> None:
    assert_as_alone(
        nn.Sequential(layer, nn.Conv1d(6 if getattr(layer, "out_channels", 4) == 6 else 4, 2, 2)), SAMPLES
    )


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, (3, 2), stride=(2, 1), padding=(1, 0)),
        nn.ConvTranspose2d(4, 4, 2, stride=2),
        nn.MaxPool2d(3, 2, 1),
        nn.AvgPool2d((2, 3), ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(2, divisor_override=3),
    ],
    ids=repr,
)
def test_over_images(layer) -> None:
    assert_as_alone(nn.Sequential(layer, nn.Conv2d(4, 2, 2)), IMAGES, (-2, -1))


def test_time_beside_frequencies_and_frames_in_the_batch() -> None:
    spectrograms = [torch.randn(1, 1, 8, n) for n in (9, 5)]
    assert_as_alone(nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.MaxPool2d((2, 1))), spectrograms)
    each_frame = Runs(
        lambda x: F.conv1d(x.transpose(1, 2).reshape(-1, 1, 8), torch.ones(1, 1, 3)).view(len(x), -1, 6)
    )
    assert_as_alone(each_frame, [spectrogram[:, 0] for spectrogram in spectrograms])


def test_a_window_as_large_as_the_sample() -> None:
    assert_as_alone(Runs(lambda x: F.avg_pool2d(x, x.size()[2:]).flatten(1)), IMAGES, (-2, -1))
    assert_as_alone(Runs(lambda x: F.max_pool1d(x, x.size(2))), SAMPLES)


def test_gradients_are_those_of_each_sample() -> None:
    """−∞ in a max pooling leaves no NaN, and padding has no gradient."""
    net = nn.Sequential(
        nn.Conv1d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool1d(3, 2, 1), nn.Conv1d(4, 2, 3, padding=2)
    )
    samples = [sample.clone() for sample in SAMPLES]
    sum(net(sample).square().sum() for sample in samples).backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    run_padded(net, samples, value=float("nan")).square().sum().backward()
    for parameter, wanted in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: F.conv1d(x, torch.ones(1, 4, 9)), "nothing is left of sample 1, of length 7"),
        (
            lambda x: F.conv1d(x.transpose(1, 2), torch.ones(1, x.shape[2], 2)),
            "its channels are samples or lengths",
        ),
        (lambda x: F.max_pool1d(x.reshape(1, -1, x.shape[2]), 2), "its channels are samples"),
        (lambda x: F.avg_pool1d(x, 3, padding=1, ceil_mode=True), "ceil_mode with padding"),
        (lambda x: F.max_pool1d(x, x.size(2) // 2), "whose size depends"),
        (lambda x: F.max_pool1d(x, 2, return_indices=True)[1] + 1, "indices of a max pooling"),
        (lambda x: F.conv1d(torch.ones(1, 4, 9), x[:1]), "samples"),
        (nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"), "'circular' reads what is beyond the end"),
    ],
)
def test_what_cannot_be_as_alone_is_refused(function, words) -> None:
    with pytest.raises(LengthsError, match=words):
        run_padded(function, SAMPLES)
