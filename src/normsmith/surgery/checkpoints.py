"""Files of weights: read without executing what is in them, written whole or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from normsmith._files import replacing
from normsmith._torch import COMPILED_PREFIX
from normsmith.errors import InputError

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_NESTED = ("state_dict", "model_state_dict", "model")
"""Where training scripts keep the weights beside the optimizer's state and the rest."""
_WRAPPERS = (COMPILED_PREFIX, "module.")


def load_into(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into a model, every key of it and of the model.

    `.safetensors`, or what `torch.load(weights_only=True)` reads; a state dict by itself or as "state_dict",
    "model_state_dict" or "model" of a dict. The prefixes of DistributedDataParallel and torch.compile go.

    Raises InputError: no such file, another kind of file, or weights of another model.
    """
    state = _state_dict(_read(path), path)
    for prefix in _WRAPPERS:
        consume_prefix_in_state_dict_if_present(state, prefix)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path}: expected weights of {type(model).__name__}: {_short(error)}") from error


def check_target(path: Path, *, force: bool, suffixes: tuple[str, ...]) -> None:
    """Raise InputError unless a file of one of these kinds can be written at `path`."""
    if path.suffix not in suffixes:
        raise InputError(f"{path}: expected a file name that ends in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: expected a folder to write in, got {path.parent}, which is none")
    if path.is_dir():
        raise InputError(f"{path}: expected a file to write, got a folder; name a file in it")
    if path.exists() and not force:
        raise InputError(f"{path} exists already; --force overwrites it")


def save(model: nn.Module, path: Path) -> int:
    """Write the model's state dict, on the CPU, tensors that it holds twice too; how many entries there are.

    Raises InputError: what a `.safetensors` file cannot hold, or a disk that cannot be written.
    """
    state = {name: _own(value) for name, value in model.state_dict().items()}
    if path.suffix == ".safetensors":
        other = [name for name, value in state.items() if not isinstance(value, Tensor)]
        if other:
            raise InputError(
                f"{path}: safetensors hold tensors alone, and {other[0]} is none; write a .pt file"
            )
        _write_whole(path, lambda temporary: save_file(state, temporary))
    else:
        _write_whole(path, lambda temporary: torch.save(state, temporary))
    return len(state)


def save_text(text: str, path: Path) -> None:
    """Write UTF-8 text. Raises InputError where the disk does not let us."""
    _write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in PICKLED:
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: expected tensors and plain values, which is all that is unpickled; save model.state_dict()"
        ) from error
    except (OSError, RuntimeError, EOFError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {_short(error)}") from error
    except Exception as error:  # over bytes that are no pickle torch's reader stumbles in any way
        raise InputError(
            f"cannot read {path}: expected a file that torch.save wrote, got other bytes ({type(error).__name__})"
        ) from error
    raise InputError(f"{path}: expected a file name that ends in .safetensors or {', '.join(PICKLED)}")


def _state_dict(content: Any, path: Path) -> dict[str, Any]:
    nested = [content[name] for name in _NESTED if name in content] if isinstance(content, Mapping) else []
    for state in (content, *nested):
        if isinstance(state, Mapping) and any(isinstance(value, Tensor) for value in state.values()):
            return dict(state)
    raise InputError(
        f"{path}: expected a state dict, by itself or as {', '.join(map(repr, _NESTED))}, got {_kind(content)}"
    )


def _kind(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dict of {', '.join(map(repr, list(content)[:5])) or 'nothing'}"
    return type(content).__name__


def _own(value: Any) -> Any:
    return value.detach().cpu().contiguous().clone() if isinstance(value, Tensor) else value


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a temporary file that then replaces `path`; what goes wrong is an InputError."""

    def failure(reason: str) -> InputError:
        return InputError(f"cannot write {path}: {reason}")

    with replacing(path, failure) as temporary:
        try:
            write(temporary)
        except (RuntimeError, SafetensorError) as error:  # a full disk, as these libraries say it
            raise failure(_short(error)) from error


def _short(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else f"{words[:300]} …"
