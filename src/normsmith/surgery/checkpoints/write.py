"""Files written whole or not at all: a model's state dict, or a checkpoint as it was read, with the new weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normsmith._files import explained, replacing
from normsmith.errors import InputError, MissingExtraError
from normsmith.surgery.checkpoints.read import short

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".tar")


def check_target(path: Path, *, force: bool, suffixes: tuple[str, ...]) -> None:
    """Raise InputError unless a file of one of these kinds can be written at `path`."""
    if path.suffix not in suffixes:
        raise InputError(f"{path}: expected a file name that ends in {' or '.join(suffixes)}")
    with explained(lambda reason: InputError(f"cannot write {path}: {reason}")):
        _check_place(path, force=force)


def _check_place(path: Path, *, force: bool) -> None:
    if not path.parent.is_dir():
        raise InputError(f"{path}: expected a folder to write in, got {path.parent}, which is none")
    if path.is_dir():
        raise InputError(f"{path}: expected a file to write, got a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: expected a file to write, got a device or a pipe")
    if path.exists() and not force:
        raise InputError(f"{path} exists already; --force overwrites it")


def save(content: Any, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write what torch.save takes or, to a `.safetensors` file, a state dict, with the texts that it carries along.

    Raises:
        InputError: what a `.safetensors` file cannot hold, or a disk that cannot be written.
        MissingExtraError: safetensors is not installed.
    """
    if path.suffix != ".safetensors":
        _write_whole(path, lambda temporary: torch.save(content, temporary))
        return
    other = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if other:
        raise InputError(f"{path}: safetensors hold tensors alone, and {other[0]} is none; write a .pt file")
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingExtraError(
            f"expected safetensors to write {path}: pip install 'normsmith[study]'"
        ) from error
    state = {name: value.contiguous().clone() for name, value in content.items()}
    _write_whole(path, lambda temporary: save_file(state, temporary, dict(metadata or {"format": "pt"})))


def save_text(text: str, path: Path) -> None:
    """Write UTF-8 text. Raises InputError where the disk does not let us."""
    _write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a temporary file that then replaces `path`; what goes wrong is an InputError."""

    def failure(reason: str) -> InputError:
        return InputError(f"cannot write {path}: {reason}")

    with replacing(path, failure) as temporary:
        try:
            write(temporary)
        except OSError:
            raise
        except Exception as error:  # a full disk, as torch and safetensors say it, or what cannot be pickled
            raise failure(short(error)) from error
