"""Files of other libraries and programs are told apart, each with what to do."""

import gzip
import io
import re
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from normsmith.surgery.checkpoints.foreign import foreign


def archive(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name in names:
            zipped.writestr(name, b"{}")
    return file.getvalue()


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        packed.addfile(tarfile.TarInfo("weights.pt"))
    return file.getvalue()


FILES = {
    "weights.h5": (b"\x89HDF\r\n\x1a\n and so on", "an HDF5 file, .*carry its weights over"),
    "model.keras": (archive("config.json", "model.weights.h5"), "a Keras model"),
    "model.onnx": (b"\x08\x07\x12\x07pytorch", r"an ONNX graph.*torch\.save\(model\.state_dict"),
    "flax_model.msgpack": (b"\x81\xa6params", "weights of flax"),
    "pointer.pt": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS .*`git lfs pull`"),
    "empty.pt": (b"", "an empty file"),
    "page.pt": (b"<!DOCTYPE html><html>", "a page of the web"),
    "model.gguf": (b"GGUF\x03\x00", "a GGUF file"),
    "model.pt.gz": (gzip.compress(b"x"), "gzip .*unpack it"),
    "model.tar": (tar(), "an archive of tar; unpack it"),
    "model.zip": (archive("readme.txt"), "an archive of zip that torch.save did not write"),
    "cut.pt": (archive("a/data.pkl")[:-10], "cut off or damaged"),
    "arrays.npz": (archive("w.npy"), "arrays of numpy"),
}


@pytest.mark.parametrize("name", FILES)
def test_foreign_files_are_named(tmp_path, name):
    content, said = FILES[name]
    (tmp_path / name).write_bytes(content)
    what = foreign(tmp_path / name)
    assert what is not None
    assert re.search(said, what)


def test_arrays_of_numpy_are_named(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    assert "an array of numpy" in foreign(tmp_path / "a.npy")


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:.torch.jit:FutureWarning")
def test_programs_are_named(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "a.pt")
    assert "a TorchScript program" in foreign(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a/archive_format", "a/models/model.json"])
def test_exported_programs_are_named(tmp_path, name):
    (tmp_path / "a.pt2").write_bytes(archive(name, "a/data/weights/w"))
    assert "a program that torch.export saved" in foreign(tmp_path / "a.pt2")


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_are_not_foreign(tmp_path, zipped):
    torch.save({}, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=zipped)
    assert foreign(tmp_path / "a.pth.tar") is None
