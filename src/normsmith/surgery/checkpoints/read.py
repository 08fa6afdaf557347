"""What is in a file or a folder of weights, read without executing any of it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from normsmith._choices import did_you_mean
from normsmith._text import some
from normsmith.errors import InputError, MissingExtraError
from normsmith.surgery.checkpoints.allowed import allowing, names_for
from normsmith.surgery.checkpoints.folder import files_of, shards_of
from normsmith.surgery.checkpoints.foreign import foreign


@dataclass(frozen=True)
class Content:
    """What was read: `value`, as it was saved, and the form of the file that it is from.

    `form` is "torch", "safetensors", or "shards" for weights that several files hold; `metadata` is the texts that
    a safetensors file carries along, `unread` the names of other files of weights in the folder that was given.
    """

    value: Any
    form: str
    metadata: dict[str, str] | None = field(default=None)
    unread: tuple[str, ...] = ()


def read(path: Path, allow: Sequence[str] = ()) -> Content:
    """Read a file or a folder of weights onto the CPU.

    Args:
        path: what torch.save or safetensors wrote, a folder of Hugging Face, or the index of its parts.
        allow: types of `ALLOWED` that may be unpickled beside tensors and plain values.

    Raises:
        InputError: nothing is there, it is no checkpoint of torch, or holds what cannot be unpickled safely.
    """
    with allowing(allow):
        try:
            if path.is_dir():
                first, *others = files_of(path)
                return replace(read(first, allow), unread=tuple(file.name for file in others))
            if not path.exists():
                raise InputError(f"cannot read {path}: no such file{nearest(path)}")
            if not path.is_file():
                raise InputError(f"cannot read {path}: expected a file or a folder, got a device or a pipe")
            if path.name.endswith(".index.json"):
                return _parts(path, allow)
            return _one(path, allow)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or short(error)}") from error


def short(error: BaseException) -> str:
    """What an error says in one line, cut where it is long."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else f"{words[:300]} …"


def _one(path: Path, allow: Sequence[str]) -> Content:
    what = foreign(path)
    if what is not None:
        raise InputError(f"{path}: expected weights that torch.save or safetensors wrote, got {what}")
    return _safetensors(path) if _is_safetensors(path) else Content(_unpickled(path, allow), "torch")


def _parts(index: Path, allow: Sequence[str]) -> Content:
    state: dict[str, Tensor] = {}
    for part in shards_of(index):
        value = _one(part, allow).value
        if not isinstance(value, dict):
            raise InputError(f"{part}: expected a state dict, got {type(value).__name__}")
        twice = next((name for name in value if name in state), None)
        if twice is not None:
            raise InputError(
                f"{index}: expected each tensor in one part, got {twice} in {part.name} and before it"
            )
        state |= value
    return Content(state, "shards")


def _is_safetensors(path: Path) -> bool:
    """By its name, or by its head: a length in eight bytes, then JSON."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        length, first = int.from_bytes(file.read(8), "little"), file.read(1)
    return first == b"{" and length < path.stat().st_size


def _safetensors(path: Path) -> Content:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtraError(
            f"expected safetensors to read {path}: pip install 'normsmith[study]'"
        ) from error
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())  # it is no dict: it has no other way to say them
            return Content({name: file.get_tensor(name) for name in names}, "safetensors", file.metadata())
    except SafetensorError as error:
        raise InputError(f"cannot read {path}: cut off or damaged: {short(error)}") from error


def _unpickled(path: Path, allow: Sequence[str]) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unsafe(path, allow, error) from error
    except OSError:
        raise
    except (RuntimeError, EOFError) as error:
        raise InputError(f"cannot read {path}: cut off or damaged: {short(error)}") from error
    except Exception as error:  # over bytes that are no pickle torch's reader stumbles in any way
        raise _not_torchs(path, error) from error


def _unsafe(path: Path, allow: Sequence[str], error: pickle.UnpicklingError) -> InputError:
    """Name the types that are not unpickled, with the option that takes them where there is one."""
    wanted = _unsafe_types(path, error)
    if not wanted:
        if "GLOBAL" in str(error) or "Unsupported" in str(error) or "Can only" in str(error):
            return InputError(f"{path}: expected tensors and plain values, which is all that is unpickled")
        return _not_torchs(path, error)
    if any(name.startswith("torch.nn.modules.") for name in wanted):
        return InputError(
            f"{path}: expected weights, got a whole pickled model ({some(wanted, 3)}), which is code that runs when "
            "it is read; where the model is, save torch.save(model.state_dict(), 'weights.pt')"
        )
    names = names_for(wanted)
    if names is None:
        never = [name for name in wanted if names_for([name]) is None]
        return InputError(
            f"{path}: expected tensors and plain values, which is all that is unpickled, got {some(never, 5)}; where "
            "the file was made, save the state dict alone: torch.save(model.state_dict(), 'weights.pt')"
        )
    options = " ".join(f"--allow {name}" for name in sorted({*names, *allow}))
    return InputError(
        f"{path}: it holds {some(wanted, 5)} beside tensors and plain values; {options} takes it"
    )


def _unsafe_types(path: Path, error: pickle.UnpicklingError) -> list[str]:
    try:
        return sorted(get_unsafe_globals_in_checkpoint(path))
    except (
        ValueError,
        RuntimeError,
        pickle.UnpicklingError,
    ):  # of torch before 1.6: the error names the first
        return re.findall(r"GLOBAL ([\w.]+) was not", str(error))


def _not_torchs(path: Path, error: Exception) -> InputError:
    return InputError(
        f"cannot read {path}: expected a file that torch.save or safetensors wrote, got other bytes "
        f"({type(error).__name__})"
    )


def nearest(path: Path) -> str:
    """The end of a refusal for a file that is not there: the one in its folder that may have been meant."""
    try:
        if path.is_symlink():
            return ", but a link to one that is not there"
        return did_you_mean(path.name, (file.name for file in path.parent.iterdir()))
    except OSError:
        return f"; there is no folder {path.parent}"
