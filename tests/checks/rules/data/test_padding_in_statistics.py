"""NS407: padding in what statistics are taken from."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import cnn, images, mlp, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn

import normsmith


def valid(shortest: int = 5, length: int = 20, size: int = 16, count: int = 6) -> Tensor:
    """Which positions are valid, (batches, samples, positions); the first sample has all."""
    lengths = torch.randint(
        shortest, length + 1, (count, size, 1), generator=torch.Generator().manual_seed(0)
    )
    lengths[:, 0] = length
    return torch.arange(length) < lengths


def padded(masks: Tensor) -> list[Tensor]:
    """Sequences (N, 4, T)."""
    draw = torch.Generator().manual_seed(1)
    return [(1 + torch.randn(len(mask), 4, mask.shape[1], generator=draw)) * mask[:, None] for mask in masks]


def convolution() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(4, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm1d(8), nn.ReLU())


class Steps(nn.Module):
    """A norm over (N·T, C), as people write it for sequences (N, T, C); perhaps over the valid steps alone."""

    def __init__(self, packed: bool = False) -> None:
        super().__init__()
        self.layer, self.norm, self.packed = nn.Linear(4, 8), nn.BatchNorm1d(8), packed

    def forward(self, x: Tensor) -> Tensor:
        steps = x[(x != 0).any(2)] if self.packed else x.flatten(0, 1)
        return self.norm(self.layer(steps))


class Words(nn.Module):
    """Embedded words with a norm over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(30, 8, padding_idx=1), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.words(x).transpose(1, 2))


class Masked(nn.Module):
    """A layer of normsmith that gets the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv1d(4, 8, 1), normsmith.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x), mask=(x != 0).any(1))


def words() -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(2, 30, mask.shape, generator=draw).where(mask, 1) for mask in valid()]


def framed(left: int, right: int) -> list[Tensor]:
    """Images of different widths, filled up with zeros at one side or both."""
    batches = [x.clone() for x, _ in images(6, side=16)]
    for x in batches:
        for number, image in enumerate(x):
            image[:, :, 16 - (right and number % right) :] = 0
            image[:, :, : (left and number % left)] = 0
    return batches


class TestPaddingInStatistics(RuleContract):
    code = "NS407"
    faulty = {
        "a convolution over sequences, channels first": lambda: Case(convolution(), padded(valid())),
        "steps of sequences as samples": lambda: Case(Steps(), [x.transpose(1, 2) for x in padded(valid())]),
        "words with a padding index": lambda: Case(Words(), words()),
        "images filled up on the right": lambda: Case(cnn(), framed(0, 10)),
    }
    healthy = {
        "little padding": lambda: Case(convolution(), padded(valid(shortest=18))),
        "only the valid steps": lambda: Case(
            Steps(packed=True), [x.transpose(1, 2) for x in padded(valid())]
        ),
        "a mask": lambda: Case(Masked(), padded(valid())),
        "a dark background on both sides": lambda: Case(cnn(), framed(6, 6)),
        "vectors with zeros at the end": lambda: Case(
            mlp(), [x * (torch.arange(8) < 5) for x, _ in vectors()]
        ),
        "a norm after pooling": lambda: Case(
            nn.Sequential(nn.Conv1d(4, 8, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.BatchNorm1d(8)),
            padded(valid()),
        ),
        "frozen": lambda: Case(
            normsmith.surgery.freeze(convolution(), "statistics").apply(), padded(valid())
        ),
    }


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_a_mask_beside_the_input_tells(inverse, left):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x, mask):
            return self.norm(x)

    masks = valid().flip(2) if left else valid()
    batches = [{"x": torch.randn(16, 4, 20), "mask": mask ^ inverse} for mask in masks]
    findings = normsmith.check(Named(), batches, select=["NS407"])
    share = float((~masks[:3]).double().mean())
    assert findings[0].measured == pytest.approx(share, abs=0.05)
