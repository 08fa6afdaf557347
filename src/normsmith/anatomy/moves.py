"""Calls that only move numbers about (flatten, transpose, a slice), and the same move made of another tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._torch import leaves_of
from normsmith.anatomy.kinds import RESHAPING, RESHAPING_FUNCTIONS

Move = Callable[[Tensor], Tensor]
"""Does to any tensor of the shape that a call took what the call did: each number goes where its number went."""

REARRANGING_FUNCTIONS = {
    "transpose", "permute", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze", "unsqueeze", "narrow",
    "select", "getitem", "expand", "flip", "pixel_shuffle", "pixel_unshuffle",
}  # fmt: skip
_REARRANGING_MODULES = (nn.PixelShuffle, nn.PixelUnshuffle)
_TRANSPOSED_ATTRIBUTES = (torch.Tensor.T.__get__, torch.Tensor.mT.__get__)  # type: ignore[attr-defined]


def moves_by_name(name: str, module: nn.Module | None = None) -> bool:
    """Whether a function or module of this kind only moves numbers, as far as can be told without its arguments.

    >>> moves_by_name("permute"), moves_by_name("Flatten", nn.Flatten()), moves_by_name("relu")
    (True, True, False)
    """
    if module is not None:
        return type(module) in (*RESHAPING, *_REARRANGING_MODULES)
    return name in RESHAPING_FUNCTIONS | REARRANGING_FUNCTIONS


def move_of_function(
    function: Callable[..., Any], name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Move | None:
    """The move that a call `function(*args, **kwargs)` made of its first argument, or None where it did more.

    None too where other tensors say where the numbers go, which may be elsewhere for other data.

    >>> x = torch.zeros(2, 3, 4)
    >>> move = move_of_function(torch.transpose, "transpose", (x, 1, 2), {}, x.transpose(1, 2))
    >>> move(torch.ones(2, 3, 4)).shape
    torch.Size([2, 4, 3])
    """
    if not (args and isinstance(args[0], Tensor) and isinstance(result, Tensor)):
        return None
    if name in RESHAPING_FUNCTIONS:  # x.view(dtype) reads the bits as other numbers
        return _reshape_to(result) if result.dtype == args[0].dtype else None
    if name.startswith("dropout") and kwargs.get("training") is False and not kwargs.get("inplace"):
        return _stay
    is_known = name in REARRANGING_FUNCTIONS or function in _TRANSPOSED_ATTRIBUTES
    rest = tuple(args[1:])
    others = leaves_of((rest, dict(kwargs)))
    if not is_known or _is_in_place(function) or any(isinstance(leaf, Tensor) for leaf in others):
        return None
    return lambda tensor: function(tensor, *rest, **kwargs)


def move_of_module(module: nn.Module, result: Any) -> Move | None:
    """The move that a call of a module made of its input, or None where it did more."""
    if type(module) in RESHAPING and isinstance(result, Tensor):
        return _reshape_to(result)
    return module.forward if type(module) in _REARRANGING_MODULES else None


def _reshape_to(result: Tensor) -> Move:
    """By the shape that came out: a view of another layout in memory would ask for strides that a copy lacks."""
    shape = tuple(result.shape)
    return lambda tensor: tensor.reshape(shape)


def _stay(tensor: Tensor) -> Tensor:
    return tensor


def _is_in_place(function: Callable[..., Any]) -> bool:
    name = getattr(function, "__name__", "").partition(".")[0]
    return name.endswith("_") and not name.endswith("__")
