"""CIFAR-10 from its files: 60,000 colour images of 32×32 in ten classes."""

from __future__ import annotations

import os
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normsmith._text import error_text
from normsmith.errors import TaskError
from normsmith.tasks.images.pixels import Pixels, standardised

CLASSES = 10
_IMAGE = (3, 32, 32)
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = ("test_batch",)
_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


def cifar10(folder: str | os.PathLike[str]) -> tuple[Pixels, Pixels]:
    """Training and test images of CIFAR-10, as a `Task` takes them; a sample is (image (3, 32, 32), label).

    Takes the folder into which the "binary version" (`data_batch_1.bin` … `test_batch.bin`) or the "Python version"
    (`data_batch_1` … `test_batch`) was unpacked. The latter's files are pickles, which could call anything when they
    are loaded: here nothing that they name is imported or called. The NumPy arrays in them are read as bytes, and a
    file that asks for anything else is refused.

    Raises TaskError: a file is missing, or is not what it should be.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    root = Path(folder).expanduser()
    read, ending = (_binary, ".bin") if (root / f"{_TRAIN[0]}.bin").exists() else (_pickled, "")
    paths = [root / f"{name}{ending}" for name in (*_TRAIN, *_TEST)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise TaskError(
            f"cifar10: expected {_TRAIN[0]} to {_TRAIN[-1]} and {_TEST[0]}, all with .bin or all without, in {root}, "
            f"found no {', '.join(missing)}; unpack the archive and give the folder that has these files"
        )
    *train, test = (_checked(path, *read(path)) for path in paths)
    images, labels = zip(*train, strict=True)
    return standardised((torch.cat(images), torch.cat(labels)), test)


def _checked(path: Path, pixels: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Images and labels of one file."""
    classes = torch.as_tensor(np.array(labels)).long()
    if (
        len(classes) != len(pixels)
        or not len(classes)
        or not 0 <= int(classes.min()) <= int(classes.max()) < CLASSES
    ):
        raise TaskError(
            f"cifar10: {path}: expected one label from 0 to {CLASSES - 1} for each of its {len(pixels)} images, got "
            f"{len(classes)} labels"
        )
    return torch.as_tensor(np.array(pixels)).reshape(-1, *_IMAGE), classes


def _binary(path: Path) -> tuple[Any, Any]:
    """Records of one byte for the label and 3,072 for the image."""
    size = 1 + int(np.prod(_IMAGE))
    records = np.frombuffer(path.read_bytes(), np.uint8)
    if records.size % size:
        raise TaskError(
            f"cifar10: {path}: expected records of {size:,} bytes, got {records.size:,} bytes in all; the file may be "
            "cut off"
        )
    records = records.reshape(-1, size)
    return records[:, 1:], records[:, 0]


class _Recorded:
    """Stands for an array or a data type while a pickle is read: it keeps what that would be made of."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    """Reads pickles of dicts, lists, numbers, bytes and arrays; whatever they name, nothing is imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _Recorded
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _pickled(path: Path) -> tuple[Any, Any]:
    """The arrays and labels of a batch of the Python version."""
    try:
        batch = _Reader(BytesIO(path.read_bytes()), encoding="bytes").load()
        _, shape, kind, by_columns, data = batch[b"data"].state
        if kind.arguments[0] != b"u1" or shape[1:] != (int(np.prod(_IMAGE)),):
            raise ValueError(f"an array of {kind.arguments[0]!r} and shape {shape}")
        pixels = np.frombuffer(data, np.uint8).reshape(shape, order="F" if by_columns else "C")
        return pixels, batch[b"labels"]
    except Exception as error:  # whatever a broken or foreign pickle leads to
        raise TaskError(
            f"cifar10: {path}: expected a batch of the Python version, got something else ({error_text(error)})"
        ) from error
