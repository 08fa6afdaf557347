"""Images that are held as bytes, a quarter of what they take as numbers, and become numbers when they are asked for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

_AT_ONCE = 1024


class Pixels(Dataset[tuple[Tensor, Tensor]]):
    """Images and their labels; a sample is (image, label), the image standardised channel by channel.

    Arguments:
        images: (N, C, H, W) in uint8.
        labels: (N,) in int64.
        mean, std: (C,), of pixels between 0 and 1; a sample is (pixel / 255 − mean) / std in float32.

    >>> white = torch.full((4, 1, 2, 2), 255, dtype=torch.uint8)
    >>> image, label = Pixels(white, torch.arange(4), torch.zeros(1), torch.ones(1))[3]
    >>> image.shape, float(image.max()), int(label)
    (torch.Size([1, 2, 2]), 1.0, 3)
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> None:
        self.images, self.labels = images, labels
        self.mean, self.std = mean, std

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Several samples, converted at once."""
        scaled = self.images[indices].float() / 255
        standardised = (scaled - self.mean[:, None, None]) / self.std[:, None, None]
        return list(zip(standardised.unbind(), self.labels[indices].unbind(), strict=True))


def standardised(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> tuple[Pixels, Pixels]:
    """Training and test images, (images, labels) each, by the mean and deviation of the channels of the former.

    >>> images, labels = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1), torch.arange(2)
    >>> train, test = standardised((images, labels), (images, labels))
    >>> [float(image) for image, _ in train]
    [-1.0, 1.0]
    """
    images, _ = train
    total, squares = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for chunk in torch.split(images, _AT_ONCE):  # all of them in float64 may not fit into memory
        part = chunk.double() / 255
        total += part.sum((0, 2, 3))
        squares += part.square().sum((0, 2, 3))
    count = images.numel() / images.shape[1]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    scale = mean.float(), std.where(std > 0, 1.0).float()
    return Pixels(*train, *scale), Pixels(*test, *scale)
