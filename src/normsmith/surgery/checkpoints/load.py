"""A checkpoint loaded into a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from normsmith.surgery.checkpoints.checkpoint import Checkpoint, parameters
from normsmith.surgery.checkpoints.choose import check_loads, choose, unwrapped, values
from normsmith.surgery.checkpoints.names import has
from normsmith.surgery.checkpoints.read import read


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    prefix: str | None = None,
    strict: bool = True,
    lacking: bool = False,
    allow: str | Sequence[str] = (),
) -> Checkpoint:
    """Load the weights of a file or folder into a model, as training scripts and libraries write them.

    A state dict by itself or under any key, with the names as they are or after `module.`, `_orig_mod.`, `model.` in
    any order (the first two within names as well, where a part of the model was wrapped), in files of torch.save or
    safetensors, in a folder of Hugging Face or the index of its parts. Nothing in a file is executed. All of the
    model's values must be there; an old file may lack `num_batches_tracked`. Where several state dicts fit,
    "state_dict", "model_state_dict" or "model" is taken, and the others are named.

    Args:
        model: gets the weights; it is as it was if they are refused.
        path: the file or folder.
        key: the state dict to take, as "params_ema" or "ema.shadow".
        prefix: the module whose part to take, as "backbone."; what belongs to other modules is passed over. "" takes
            the names as they are.
        strict: False forgives keys that the model does not have, never missing ones.
        lacking: True forgives running statistics that the file lacks: the model keeps its own.
        allow: types that are unpickled too, of a closed list: argparse.Namespace, numpy.dtype, numpy.generic and the
            paths of pathlib.

    Raises:
        InputError: the file cannot be read, holds what may not be unpickled, or no state dict fits, or several do;
            the message names the options of `normsmith fix`, which are called as the arguments here
            (`--non-strict` is `strict=False`).

    >>> import tempfile, torch
    >>> model, file = nn.Linear(2, 1), f"{tempfile.mkdtemp()}/last.pt"
    >>> torch.save({"epoch": 3, "net": {f"module.{k}": v for k, v in model.state_dict().items()}}, file)
    >>> loaded = load_checkpoint(nn.Linear(2, 1), file)
    >>> loaded.key, loaded.prefix
    ('net', 'module.')
    """
    path, model = Path(path), unwrapped(model)
    content = read(path, (allow,) if isinstance(allow, str) else allow)
    fit, every = choose(model, content.value, path, key=key, prefix=prefix, strict=strict, lacking=lacking)
    state = values(fit, model)
    check_loads(model, state, path)
    model.load_state_dict(state)
    others = [state for state in every if state.keys not in ((), fit.state.keys)]
    copies = [state.name for state in others if has(state.tensors, model.state_dict(keep_vars=True))]
    names = tuple(state.name for state in others)
    return Checkpoint(path, names, tuple(copies), content, fit, parameters(model))
