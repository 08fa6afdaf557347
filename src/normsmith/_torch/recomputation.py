"""Backward passes and activation checkpointing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

backward_number: Callable[[], int] = torch._C._current_graph_task_id
"""The number of the backward that calls this code; −1 where none does.

Needs `torch._C._current_graph_task_id`. Without it, a recomputed forward would move running statistics twice.
"""

_top_hooks: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def checkpointed_segment() -> Any:
    """The object that stands for the checkpointed segment which runs its first forward now, or None.

    `torch.utils.checkpoint` makes one for each segment and keeps it for the recomputation, but does not hand it out.
    Without reentry it is the variable `frame` in the closure of the hook that packs saved tensors, whose name begins
    with `_checkpoint_hook.`; with reentry it is `ctx` of `CheckpointFunction.forward`, which runs without gradients.
    Needs these variables, and `torch._C._autograd._top_saved_tensors_default_hooks`; in torch 2.6, which has no such
    function, the variable is looked for on Python's stack. Without both, checkpointed layers use the present statistics
    when they are recomputed: correct for batch norm, not for batch renormalization.
    """
    if _top_hooks is None:
        generator = _variable_of_checkpoint({"checkpoint": "gen"})
        if generator is not None:
            return generator.gi_frame.f_locals["new_frame"]
    elif (hooks := _top_hooks(False)) is not None:
        pack = hooks[0]
        if getattr(pack, "__qualname__", "").startswith("_checkpoint_hook."):
            return dict(zip(pack.__code__.co_freevars, pack.__closure__, strict=True))["frame"].cell_contents
        return None
    return None if torch.is_grad_enabled() else _variable_of_checkpoint({"forward": "ctx"})


def recomputed_segment() -> Any:
    """The object that stands for the checkpointed segment which is recomputed now, or None.

    It is the one that `checkpointed_segment` gave during the first forward. Needs, on Python's stack, the variable
    `frame` of the function `unpack_hook` in `torch.utils.checkpoint`, or `ctx` of `CheckpointFunction.backward`.
    """
    return _variable_of_checkpoint({"unpack_hook": "frame", "backward": "ctx"})


def _variable_of_checkpoint(variables: dict[str, str]) -> Any:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        variable = variables.get(frame.f_code.co_name)
        if variable is not None and frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return frame.f_locals.get(variable)
        frame = frame.f_back
    return None
