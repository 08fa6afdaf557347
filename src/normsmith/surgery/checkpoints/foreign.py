"""Files that hold no state dict, recognised by their first bytes: each refused with what to do about it."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

_EXPORT = "save the weights where the model is: torch.save(model.state_dict(), 'weights.pt')"

_BY_SUFFIX = {
    ".onnx": f"an ONNX graph, which has no modules to change; {_EXPORT}",
    ".keras": "a Keras model; carry its weights over to the network in torch (see normsmith.layers.interop), then "
    "torch.save(model.state_dict(), 'weights.pt')",
    ".msgpack": f"weights of flax; load them into the network in torch, then {_EXPORT}",
}
_BY_FIRST_BYTES = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes them; carry its weights over to the network in torch, then "
    "torch.save(model.state_dict(), 'weights.pt')",
    b"version https://git-lfs": "a pointer of Git LFS instead of the file itself; fetch it with `git lfs pull`",
    b"GGUF": f"a GGUF file, quantised for inference; {_EXPORT}",
    b"\x1f\x8b": "a file that gzip compressed; unpack it first",
    b"<!DOCTYPE": "a page of the web that was saved instead of the file; download it again",
    b"<html": "a page of the web that was saved instead of the file; download it again",
    b"\x93NUMPY": f"an array of numpy; {_EXPORT}",
}
_TORCHSCRIPT = f"a TorchScript program, whose code is fixed; {_EXPORT} before it is scripted or traced"
_PROGRAM = f"a program that torch.export saved, whose code is fixed; {_EXPORT} before it is exported"


def foreign(path: Path) -> str | None:
    """What a file is that is no checkpoint of torch, and what to do; None where it may be one.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        first = file.read(64)
    if not first:
        return "an empty file; the run that wrote it ended too early, or the disk was full"
    for start, what in _BY_FIRST_BYTES.items():
        if first.startswith(start):
            return what
    if first.startswith(b"PK"):
        return _archive(path)
    if path.suffix in _BY_SUFFIX:
        return _BY_SUFFIX[path.suffix]
    return "an archive of tar; unpack it first" if tarfile.is_tarfile(path) else None


def _archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "an archive that is cut off or damaged; copy or download it again"
    ends = {name.partition("/")[2] for name in names}
    if "constants.pkl" in ends:
        return _TORCHSCRIPT
    if any(end.startswith("models/") and end.endswith(".json") for end in ends) or "archive_format" in ends:
        return _PROGRAM
    if "model.weights.h5" in names:
        return _BY_SUFFIX[".keras"]
    if any(name.endswith(".npy") for name in names):
        return f"arrays of numpy; {_EXPORT}"
    return None if "data.pkl" in ends else "an archive of zip that torch.save did not write; unpack it first"
