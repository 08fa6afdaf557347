"""A folder of images for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from normsmith._extras import imports_of_extra
from normsmith._text import error_text, some
from normsmith.errors import TaskError

ENDINGS = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""What the names of images end in; other files are left out."""


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """The images of a folder `root/class/image`, opened when they are asked for; a sample is (image, class).

    Images become RGB, are scaled so that they fill a square, and cut to it around their middle. An image is
    (3, size, size) in float32, standardised channel by channel. Folders within a class's folder are searched too.

    Arguments:
        root: the folder that has a folder for each class.
        size: the width and height of the images in pixels.
        classes: the names of the classes in their order, such as `train.classes` for the test images; by default the
            names of the folders, sorted.
        mean, std: of each channel, for pixels between 0 and 1; by default those of ImageNet.

    Raises TaskError: there is no such folder, no class or no image, a folder that is none of the `classes`, or, when
    it is asked for, an image that cannot be read; MissingExtraError without Pillow.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        size: int,
        *,
        classes: Sequence[str] | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        with imports_of_extra("images", "ImageFolder"):
            import PIL  # noqa: F401  said now, and not when the first image is opened
        self.root, self.size = Path(root).expanduser(), size
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
        found = _folders(self.root)
        self.classes = tuple(found if classes is None else classes)
        unknown = [name for name in found if name not in self.classes]
        if unknown:
            raise TaskError(
                f"ImageFolder: {self.root}: expected folders for the classes {some(self.classes, 5)}, got also "
                f"{some(unknown, 5)}"
            )
        self.paths = tuple(
            (path, self.classes.index(name)) for name in found for path in _images(self.root / name)
        )
        if not self.paths:
            raise TaskError(
                f"ImageFolder: {self.root}: expected images in the folders {some(found, 5)}, found none that ends in "
                f"{', '.join(sorted(ENDINGS))}"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image, ImageOps

        path, label = self.paths[index]
        try:
            with Image.open(path) as image:
                square = ImageOps.fit(image.convert("RGB"), (self.size, self.size))
        except Exception as error:  # Pillow raises many kinds for files that are broken
            raise TaskError(f"ImageFolder: {path} cannot be read: {error_text(error)}") from error
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
        return (pixels - self.mean) / self.std, label


def _folders(root: Path) -> list[str]:
    """The names of the classes: of the folders, hidden ones left out."""
    if not root.is_dir():
        raise TaskError(f"ImageFolder: expected a folder, found none at {root}")
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise TaskError(f"ImageFolder: expected a folder for each class in {root}, found no folder")
    return names


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
