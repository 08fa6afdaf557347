"""Fashion-MNIST from its files: 70,000 grey images of 28×28 in ten classes; MNIST and others come in its format."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from normsmith.errors import TaskError
from normsmith.tasks.images.pixels import Pixels, standardised

_BYTES = 8  # what the format calls the data type of unsigned bytes


def fashion_mnist(folder: str | os.PathLike[str]) -> tuple[Pixels, Pixels]:
    """Training and test images of Fashion-MNIST, as a `Task` takes them; a sample is (image (1, 28, 28), label).

    Takes the folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    `t10k-labels-idx1-ubyte`, each as it is or with `.gz`. Those of MNIST and KMNIST are the same, and read as well.

    Raises TaskError: a file is missing, is not what it should be, or images and labels are not as many.

    Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms", 2017.
    """
    root = Path(folder).expanduser()
    return standardised(_part(root, "train"), _part(root, "t10k"))


def _part(root: Path, part: str) -> tuple[Tensor, Tensor]:
    images = read_idx(_file(root, f"{part}-images-idx3-ubyte"), dimensions=3)
    labels = read_idx(_file(root, f"{part}-labels-idx1-ubyte"), dimensions=1)
    if len(images) != len(labels) or not len(images):
        raise TaskError(
            f"fashion_mnist: {root}: expected as many {part} images as labels, got {len(images)} images and "
            f"{len(labels)} labels"
        )
    return images[:, None], labels.long()


def _file(root: Path, name: str) -> Path:
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise TaskError(f"fashion_mnist: expected {name} or {name}.gz in {root}, found neither")


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The array in a file of the IDX format, unsigned bytes of so many dimensions; `.gz` is unpacked.

    The file begins with two zeros, the data type and the number of dimensions, a byte each, and then has the size of
    each dimension in four bytes, the largest first.

    Raises TaskError: it is something else, or is cut off.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"fashion_mnist: {path}: expected a file that gzip packed, got {error}") from error
    head = 4 * (1 + dimensions)
    if data[:4] != bytes([0, 0, _BYTES, dimensions]) or len(data) < head:
        raise TaskError(
            f"fashion_mnist: {path}: expected the IDX format with {dimensions} dimensions of bytes, got a file that "
            f"begins with {data[:4].hex() or 'nothing'}"
        )
    shape = [int(size) for size in np.frombuffer(data[4:head], ">u4")]
    if len(data) - head != math.prod(shape):
        raise TaskError(
            f"fashion_mnist: {path}: expected {math.prod(shape):,} bytes for an array of {shape}, got "
            f"{len(data) - head:,}; the file may be cut off"
        )
    return torch.from_numpy(np.frombuffer(data[head:], np.uint8).reshape(shape).copy())
