"""The batches that are timed, each with its reason, and the tensors made for them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
_NAMES = {F32: "fp32", BF16: "bf16", F16: "fp16"}
EPS = 1e-5


class Case(NamedTuple):
    """One batch and what is done to it: "bn", "bn+relu", "bn+add+relu", "renorm" or "masked".

    `large` is true from 100 MB on: memory sets the pace, whatever the caches are.
    """

    shape: tuple[int, ...]
    why: str
    dtype: torch.dtype = F32
    channels_last: bool = False
    op: str = "bn"
    large: bool = False

    @property
    def bytes(self) -> int:
        """Of the batch."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def __str__(self) -> str:
        layout = "NHWC " if self.channels_last else "NCHW " if len(self.shape) == 4 else ""
        return f"{self.op} · {layout}{','.join(map(str, self.shape))} · {_NAMES[self.dtype]}"


LARGE_IMAGES = [
    ((32, 256, 56, 56), "a ResNet's first stage: 103 MB, slices of a channel that fit the cache"),
    ((64, 512, 28, 28), "as large, four times shorter planes"),
]
IMAGES = [
    ((32, 64, 56, 56), "few channels"),
    ((16, 64, 112, 112), "few channels, long planes: a slice of a channel does not fit the cache"),
    ((32, 256, 14, 14), "planes too short to be worked on one by one"),
    ((64, 2048, 7, 7), "shorter than a few vectors"),
    ((8, 3, 224, 224), "hardly any channels"),
]
MATRICES = [
    ((60, 100), "the calling cost"),
    ((256, 512), "fits the second cache"),
    ((4096, 1024), "a large batch of a wide MLP"),
    ((65536, 64), "points or pixels as rows"),
    ((128, 128, 200), "sequences"),
    ((300, 384), "fits the second cache, in numbers that are no powers of two"),
]
LARGE_MATRICES = [((4_000_000, 8), "rows shorter than a vector: 128 MB")]


def _case(
    shape: tuple[int, ...],
    why: str,
    dtype: torch.dtype = F32,
    last: bool = False,
    op: str = "bn",
) -> Case:
    case = Case(shape, why, dtype, last, op)
    return case._replace(large=case.bytes >= 100 * 10**6)


def _images(shapes: list[tuple[tuple[int, ...], str]], dtype: torch.dtype, op: str = "bn") -> list[Case]:
    return [_case(shape, why, dtype, last, op) for shape, why in shapes for last in (False, True)]


def plain() -> list[Case]:
    """Batch norm alone in float32: the protocol's shapes and layouts, the largest first."""
    cases = _images(LARGE_IMAGES[:1], F32) + [_case(*matrix) for matrix in LARGE_MATRICES]
    return cases + _images(IMAGES, F32) + [_case(*matrix) for matrix in MATRICES]


def halves() -> list[Case]:
    """Batch norm alone in 16 bits: bf16 over kinds of shapes, fp16 where another path could matter."""
    kinds = [LARGE_IMAGES[0], IMAGES[2], IMAGES[3]]
    cases = _images(kinds, BF16) + [_case(*MATRICES[index], BF16) for index in (1, 2, 4)]
    return cases + _images([LARGE_IMAGES[0]], F16) + [_case(*MATRICES[index], F16) for index in (2, 4)]


def fused() -> list[Case]:
    """With ReLU, and with a residual and ReLU: one in each layout beyond the caches, one within."""
    return [
        _case(shape, why, F32, last, op)
        for (shape, why), last in ((IMAGES[1], False), (IMAGES[1], True), (IMAGES[2], False))
        for op in ("bn+relu", "bn+add+relu")
    ]


def renorm() -> list[Case]:
    """Against our batch norm, and against the operations that users write today."""
    shapes = [(LARGE_IMAGES[0], False), (IMAGES[1], True), (MATRICES[2], False), (MATRICES[1], False)]
    return [_case(shape, why, F32, last, "renorm") for (shape, why), last in shapes]


def masked() -> list[Case]:
    """Padded: sequences, images and rows, against the same batch without its mask."""
    shapes = [(MATRICES[4], False), (IMAGES[0], False), (IMAGES[0], True), (MATRICES[2], False)]
    return [_case(shape, why, F32, last, "masked") for (shape, why), last in shapes]


def reused() -> list[Case]:
    """On buffers that are there already: what the kernels take, beside copies of the same bytes."""
    sixteen = [_case(*LARGE_IMAGES[0], dtype) for dtype in (BF16, F16)]
    ops = [_case(*IMAGES[1], F32, last, op) for op in ("bn+relu", "bn+add+relu") for last in (False, True)]
    small = [case for case in plain() if not case.large and case.shape != (60, 100)]
    return [*_images(LARGE_IMAGES, F32), _case(*LARGE_MATRICES[0]), *sixteen, *ops, *small]


def cold() -> list[Case]:
    """Batches that would fit a cache, out of so many buffers that none does."""
    return [*_images([IMAGES[2]], F32), _case(*MATRICES[1]), _case(*MATRICES[2])]


def serial() -> list[Case]:
    """On one thread: small batches, and one beyond the caches in each layout."""
    return _images([IMAGES[0], IMAGES[2]], F32) + [_case(*MATRICES[index]) for index in (0, 1, 3)]


class Suite(NamedTuple):
    """All cases of a run."""

    plain: list[Case]
    halves: list[Case]
    fused: list[Case]
    renorm: list[Case]
    masked: list[Case]
    reused: list[Case]
    cold: list[Case]
    serial: list[Case]


def suite(quick: bool = False) -> Suite:
    """All cases; tiny ones, and one of each that Inductor compiles, to try the benchmark out."""
    whole = Suite(plain(), halves(), fused(), renorm(), masked(), reused(), cold(), serial())
    if not quick:
        return whole
    tiny = Suite(*([shrunk(case) for case in cases] for cases in whole))
    return tiny._replace(fused=tiny.fused[:2])


def shrunk(case: Case) -> Case:
    """The same kind of batch with a few thousand elements."""
    samples, channels, *space = case.shape
    limit = 256 if len(space) == 1 else 16
    return case._replace(shape=(min(samples, 16), min(channels, 24), *(min(side, limit) for side in space)))


class Inputs(NamedTuple):
    """The tensors of a case."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    residual: Tensor | None
    g: Tensor
    mean: Tensor
    var: Tensor
    mask: Tensor | None

    @property
    def leaves(self) -> list[Tensor]:
        """What takes gradients."""
        return [t for t in (self.x, self.weight, self.bias, self.residual) if t is not None]


def inputs(case: Case, mean: float = 0.0, device: str = "cpu") -> Inputs:
    """Seeded; in the case's layout and dtype, the affine and the running statistics in float32.

    About a fifth of a masked batch is padding: the end of every sample, or the last rows.
    """
    layout = torch.channels_last if case.channels_last else torch.contiguous_format

    def normal(seed: int, around: float = 0.0) -> Tensor:
        values = _noise(case.shape, seed, device) + around
        return values.to(case.dtype).contiguous(memory_format=layout)

    channels, generator = case.shape[1], torch.Generator(device).manual_seed(0)
    weight = torch.rand(channels, device=device, generator=generator) + 0.5
    bias = torch.randn(channels, device=device, generator=generator)
    residual = normal(3).requires_grad_() if "add" in case.op else None
    mask = _mask(case, generator) if case.op == "masked" else None
    return Inputs(
        normal(1, mean).requires_grad_(),
        weight.requires_grad_(),
        bias.requires_grad_(),
        residual,
        normal(2),
        torch.full((channels,), mean, device=device),
        torch.ones(channels, device=device),
        mask,
    )


@lru_cache(maxsize=3)
def _noise(shape: tuple[int, ...], seed: int, device: str) -> Tensor:
    """Cases of one shape follow each other, and random numbers take longer than what is timed."""
    return torch.randn(shape, device=device, generator=torch.Generator(device).manual_seed(seed))


def _mask(case: Case, generator: torch.Generator) -> Tensor:
    samples, _, *space = case.shape
    if not space:
        return torch.arange(samples, device=generator.device) < 0.8 * samples
    lengths = torch.randint(int(0.6 * space[-1]), space[-1] + 1, (samples, 1), device=generator.device,
                            generator=generator)  # fmt: skip
    valid = torch.arange(space[-1], device=generator.device) < lengths
    return valid.view(samples, *[1] * (len(space) - 1), space[-1]).expand(samples, *space).contiguous()
