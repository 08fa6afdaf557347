"""Folders of weights: those of Hugging Face, whole or in parts; others are refused with what converts them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from normsmith._text import some
from normsmith.errors import InputError

_STEMS = ("model", "pytorch_model", "diffusion_pytorch_model")
_FILES = [
    f"{stem}{end}"
    for end in (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
    for stem in _STEMS
]
"""What libraries of Hugging Face look for in a folder, in that order."""


def files_of(folder: Path) -> list[Path]:
    """The file of a folder that holds the weights, or the index of those that do; after it others that do so too.

    Raises:
        InputError: a folder of another kind; the message says what makes a file of it.
    """
    target = shlex.quote(f"{folder}.pt")
    source = shlex.quote(str(folder))
    if (folder / ".metadata").exists():
        raise InputError(
            f"{folder}: expected weights, got a folder of torch.distributed.checkpoint, whose index is a pickle that "
            "runs code; if you trust it, convert it with: python -m torch.distributed.checkpoint.format_utils "
            f"dcp_to_torch {source} {target}"
        )
    if (folder / "zero_to_fp32.py").exists():
        raise InputError(
            f"{folder}: expected weights, got a folder of DeepSpeed; convert it with: python "
            f"{shlex.quote(str(folder / 'zero_to_fp32.py'))} {source} {target}"
        )
    if (folder / "saved_model.pb").exists():
        raise InputError(
            f"{folder}: expected weights, got a SavedModel of TensorFlow; carry its weights over to the network in "
            "torch, then torch.save(model.state_dict(), 'weights.pt')"
        )
    with_weights = [folder / name for name in _FILES if (folder / name).is_file()]
    if with_weights:
        return with_weights
    files = sorted(file.name for file in folder.iterdir() if file.is_file())
    got = f"name one of its files: {some(files, 5)}" if files else "it holds no file"
    raise InputError(f"{folder}: expected a folder with {_FILES[0]} or pytorch_model.bin in it; {got}")


def shards_of(index: Path) -> list[Path]:
    """The files that an index names, each once.

    Raises:
        InputError: it is no index, names a file elsewhere, or a file that is not there.
        OSError: it cannot be read.
    """
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        files = [index.parent / name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{index}: expected an index with "weight_map", the file of each tensor ({type(error).__name__})'
        ) from error
    for name, file in zip(names, files, strict=True):
        if Path(name).name != name:
            raise InputError(f"{index}: expected names of files beside it, got {name!r}")
        if not file.is_file():
            raise InputError(f"{index}: it names {name}, which is not there; download all its parts")
    return files
