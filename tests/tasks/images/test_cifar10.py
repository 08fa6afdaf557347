"""CIFAR-10 in both versions of its files, and files that are something else."""

import pickle
import struct
import warnings

import pytest
import torch

from normsmith.errors import TaskError
from normsmith.tasks import cifar10

NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def batch(number: int) -> tuple[bytes, bytes]:
    """Labels and pixels of two images."""
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (2, 3072), generator=generator, dtype=torch.uint8)
    return bytes([number, 9 - number]), pixels.numpy().tobytes()


def binary(labels: bytes, pixels: bytes) -> bytes:
    return labels[:1] + pixels[:3072] + labels[1:] + pixels[3072:]


def text(value: bytes) -> bytes:
    """A `str` of Python 2, as pickled in protocol 2."""
    return b"T" + struct.pack("<i", len(value)) + value


def pickled(labels: bytes, pixels: bytes) -> bytes:
    """A batch as Python 2 and its NumPy wrote it, operation by operation."""
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01K\x02M\x00\x0c\x86" + kind + b"\x89" + text(pixels) + b"tb"
    classes = b"](" + b"".join(b"K" + labels[i : i + 1] for i in range(len(labels))) + b"e"
    entries = text(b"data") + array + state + text(b"labels") + classes
    return b"\x80\x02}(" + entries + b"u."


@pytest.fixture
def folders(tmp_path):
    """The same images in both versions."""
    for version in ("binary", "python"):
        (tmp_path / version).mkdir()
        for number, name in enumerate(NAMES):
            labels, pixels = batch(number)
            content = binary(labels, pixels) if version == "binary" else pickled(labels, pixels)
            (tmp_path / version / (f"{name}.bin" if version == "binary" else name)).write_bytes(content)
    return tmp_path


def test_the_python_version_is_a_pickle(folders):
    """What is read without pickle here is what pickle and NumPy make of it."""
    with (folders / "python" / "data_batch_1").open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer NumPys say that the file names what has moved
        content = pickle.load(file, encoding="bytes")
    assert content[b"labels"] == [0, 9]
    assert content[b"data"].tobytes() == batch(0)[1]


@pytest.mark.parametrize("version", ["binary", "python"])
def test_images_and_labels_are_read(folders, version):
    train, test = cifar10(folders / version)
    assert (len(train), len(test)) == (10, 2)
    assert train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert test.labels.tolist() == [5, 4]
    assert train.images.shape == (10, 3, 32, 32)
    assert train.images[2:4].numpy().tobytes() == batch(1)[1]


def test_both_versions_give_the_same(folders):
    one, other = cifar10(folders / "binary"), cifar10(str(folders / "python"))
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, other, strict=True))


def test_an_array_that_was_written_by_columns_is_read_so(folders):
    pixels, labels = torch.arange(2 * 3072).reshape(2, 3072).to(torch.uint8), bytes([0, 9])
    content = pickled(labels, pixels.T.contiguous().numpy().tobytes())
    by_columns = content.replace(b"\x89T", b"\x88T")  # False of the array's state becomes True
    assert pickle.loads(by_columns, encoding="bytes")[b"data"].tolist() == pixels.tolist()
    (folders / "python" / "data_batch_1").write_bytes(by_columns)
    train, _ = cifar10(folders / "python")
    assert torch.equal(train.images[:2].flatten(1), pixels)


def test_missing_files_are_named(folders):
    (folders / "python" / "data_batch_3").unlink()
    with pytest.raises(TaskError, match="found no data_batch_3; unpack the archive"):
        cifar10(folders / "python")
    with pytest.raises(TaskError, match="found no data_batch_1"):
        cifar10(folders / "nowhere")


def test_a_pickle_that_would_call_something_is_refused_and_calls_nothing(folders, tmp_path):
    marker = tmp_path / "called"

    class Evil:
        def __reduce__(self):
            return marker.write_text, ("!",)

    for content in (pickle.dumps({b"data": Evil()}, 2), b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR."):
        (folders / "python" / "data_batch_2").write_bytes(content)
        with pytest.raises(TaskError, match=r"data_batch_2: .*it asks for"):
            cifar10(folders / "python")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "EOFError"),
        (b"not a pickle", "something else"),
        (pickle.dumps({b"labels": [1]}), "KeyError"),
        (pickle.dumps({b"data": [1], b"labels": [1]}), "AttributeError"),
        (pickled(b"\x01\x0a", bytes(6144)), "one label from 0 to 9 for each of its 2 images"),
        (pickled(b"\x01", bytes(6144)), "for each of its 2 images, got 1 labels"),
        (pickled(b"\x01\x02", bytes(6000)), "cannot reshape"),
    ],
)
def test_files_that_are_something_else_are_refused(folders, content, words):
    (folders / "python" / "data_batch_4").write_bytes(content)
    with pytest.raises(TaskError, match=words) as caught:
        cifar10(folders / "python")
    assert "data_batch_4" in str(caught.value)


def test_a_binary_file_that_is_cut_off_is_refused(folders):
    (folders / "binary" / "test_batch.bin").write_bytes(bytes(4000))
    with pytest.raises(TaskError, match=r"test_batch.bin: expected records of 3,073 bytes, got 4,000"):
        cifar10(folders / "binary")
