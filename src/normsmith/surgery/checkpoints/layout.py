"""The new weights in the layout of the checkpoint that they came from, and what could not stay in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._text import some
from normsmith.surgery.checkpoints.checkpoint import Checkpoint, parameters
from normsmith.surgery.checkpoints.choose import unwrapped
from normsmith.surgery.checkpoints.entries import Keys, name_of, optimizers, replaced, without
from normsmith.surgery.checkpoints.write import save


def save_checkpoint(
    model: nn.Module, path: str | os.PathLike[str], *, like: Checkpoint | None = None
) -> tuple[str, ...]:
    """Write a model's weights: by themselves, or in the layout of the checkpoint that they were loaded from.

    The file is written whole or not at all; one that is there is replaced, the checkpoint too.

    Args:
        model: whose state dict is written, on the CPU.
        path: ends in .safetensors, or the file is one of torch.save.
        like: what `load_checkpoint` returned for the model. If it was one file, and of the same form, everything in
            it stays as it was but the model's values: prefixes, epoch, other state dicts, a safetensors file's texts.
            States of optimizers stay only if the model still has the same parameters, by name and shape.

    Returns:
        What did not stay, and which copies of the model are in the file, in sentences.

    Raises:
        InputError: what a .safetensors file cannot hold, or a disk that cannot be written.

    >>> import tempfile
    >>> from normsmith.surgery import load_checkpoint
    >>> model, file = nn.Linear(2, 1), f"{tempfile.mkdtemp()}/last.pt"
    >>> torch.save({"epoch": 3, "net": model.state_dict()}, file)
    >>> loaded = load_checkpoint(model, file)
    >>> save_checkpoint(model.requires_grad_(False), file, like=loaded), torch.load(file)["epoch"]
    ((), 3)
    """
    path, model = Path(path), unwrapped(model)
    own = {name: _on_cpu(value) for name, value in model.state_dict().items()}
    form = "safetensors" if path.suffix == ".safetensors" else "torch"
    if like is None or like.content.form != form:
        save(own, path)
        return () if like is None else _of_another_form(like)
    value = like.content.value
    dropped = optimizers(value) if parameters(model) != like.parameters else []
    changed = replaced(value, like.fit.state.keys, lambda state: _renewed(state, own, model, like))
    for entry in dropped:
        changed = without(changed, entry)
    save(changed, path, like.content.metadata)
    return _notes(dropped, like)


def _renewed(
    state: Mapping[str, Any], own: Mapping[str, Any], model: nn.Module, checkpoint: Checkpoint
) -> Any:
    """The file's state dict with the model's values in it: what is of other modules stays where it is."""
    prefix, names = checkpoint.prefix, checkpoint.fit.match.names
    if checkpoint.fit.match.is_translated:
        of_model = {key for key in state if key.startswith(prefix)}
    else:
        of_model = set(names.values())
    left_out = _left_out(own, model, checkpoint)
    new = {checkpoint.fit.match.key_of(name): value for name, value in own.items() if name not in left_out}
    renewed = copy(state)  # an OrderedDict with the versions of its modules stays one
    assert hasattr(renewed, "pop")
    for key in of_model - new.keys():
        renewed.pop(key)
    for key, value in new.items():
        renewed[key] = _as_before(state[key], value) if key in of_model else value  # type: ignore[index]
    return renewed


def _left_out(own: Mapping[str, Any], model: nn.Module, checkpoint: Checkpoint) -> set[str]:
    """What the file did without and the model still has in that way: counters at 0, names tied to another."""
    match, held = checkpoint.fit.match, model.state_dict(keep_vars=True)
    present = {id(held[name]) for name in match.names if name in held}
    tied = {name for name in match.tied if name in held and id(held[name]) in present}
    return tied | {name for name in match.counters if name in own and not own[name].any()}


def _as_before(old: Any, new: Any) -> Any:
    """A value in the dtype of the file; the file's own tensor if nothing of it changed."""
    if not (isinstance(old, Tensor) and isinstance(new, Tensor)):
        return new
    if old.shape == new.shape and torch.equal(old.to(new.dtype), new):
        return old
    same = new.to(old.dtype)
    return same if not same.is_floating_point() or same.isfinite().all() else new


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _of_another_form(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What is lost where the file to write cannot have the layout of what was read."""
    value, keys, prefix = checkpoint.content.value, checkpoint.fit.state.keys, checkpoint.prefix
    taken = {*keys[:1], *checkpoint.fit.match.names.values()}
    gone = (
        []
        if checkpoint.fit.match.is_translated and not keys
        else [str(key) for key in value if key not in taken]
    )
    if not (gone or prefix):
        return ()
    without_prefix = f", without the prefix {prefix}" if prefix else ""
    return (f"the weights alone{without_prefix}{f'; left out: {some(gone, 10)}' if gone else ''}",)


def _notes(dropped: Sequence[Keys], checkpoint: Checkpoint) -> tuple[str, ...]:
    notes = []
    if dropped:
        notes.append(
            f"dropped: {some([name_of(keys) for keys in dropped], 10)}: states of an optimizer for other parameters"
        )
    if checkpoint.copies:
        one = len(checkpoint.copies) == 1
        verb = "is another copy" if one else "are other copies"
        stays = "stays as it was" if one else "stay as they were"
        notes.append(f"{some(checkpoint.copies, 10)} {verb} of the model and {stays}")
    return tuple(notes)
