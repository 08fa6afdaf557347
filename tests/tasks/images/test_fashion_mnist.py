"""Fashion-MNIST from tiny files in its format, packed and not."""

import gzip

import numpy as np
import pytest
import torch

from normsmith.errors import TaskError
from normsmith.tasks import fashion_mnist
from normsmith.tasks.images.fashion_mnist import read_idx


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


IMAGES = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
LABELS = np.array([9, 0, 3], dtype=np.uint8)


@pytest.fixture(params=["", ".gz"], ids=["as it is", "packed"])
def folder(tmp_path, request):
    for part in ("train", "t10k"):
        for name, array in (("images-idx3-ubyte", IMAGES), ("labels-idx1-ubyte", LABELS)):
            content = idx(array)
            path = tmp_path / f"{part}-{name}{request.param}"
            path.write_bytes(gzip.compress(content) if request.param else content)
    return tmp_path


def test_images_and_labels_are_read(folder):
    train, test = fashion_mnist(folder)
    assert (len(train), len(test)) == (3, 3)
    assert train.labels.tolist() == [9, 0, 3]
    assert torch.equal(train.images[:, 0], torch.from_numpy(IMAGES))
    assert train[0][0].shape == (1, 28, 28)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(TaskError, match=r"expected train-images-idx3-ubyte or train-images-idx3-ubyte.gz in"):
        fashion_mnist(tmp_path)


def test_images_without_labels_are_refused(folder):
    path = next(folder.glob("train-labels*"))
    content = idx(LABELS[:2])
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    with pytest.raises(TaskError, match="as many train images as labels, got 3 images and 2 labels"):
        fashion_mnist(folder)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.gz", b"not packed", "expected a file that gzip packed"),
        ("x.gz", gzip.compress(idx(LABELS))[:-9], "expected a file that gzip packed"),
        ("x", b"", "begins with nothing"),
        (
            "x",
            idx(IMAGES),
            "expected the IDX format with 1 dimensions of bytes, got a file that begins with 00000803",
        ),
        ("x", idx(LABELS)[:-1], r"expected 3 bytes for an array of \[3\], got 2; the file may be cut off"),
        ("x", b"\x00\x00\x08\x01\x00", "begins with 00000801"),
    ],
    ids=["not packed", "cut off while packed", "empty", "images", "cut off", "cut off in its head"],
)
def test_files_that_are_something_else_are_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=words):
        read_idx(tmp_path / name, dimensions=1)
