"""Tensors without lengths: those of the padded size must not be computed with along its positions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from normsmith._torch import leaves_of
from normsmith.anatomy.forward import flat
from normsmith.anatomy.lengths.sizes import differing, plain_number
from normsmith.anatomy.lengths.tracker import Sized, Tracker

WINDOWS = ("conv", "max_pool", "avg_pool", "batch_norm", "lstm", "gru", "rnn_")
"""How the names of functions begin that compute from several positions by weights or windows."""
_SHAPED_BY_SIZES = {
    "arange", "zeros", "ones", "empty", "full", "eye", "rand", "randn", "new_zeros", "new_ones", "new_empty",
    "new_full", "expand", "view", "reshape", "repeat", "broadcast_to", "flatten", "getitem",
}  # fmt: skip
"""Functions that make of a size constants of that shape, the first of whose values do not depend on it."""
_ALONG_DIM = {
    "sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "std", "var", "logsumexp", "softmax",
    "log_softmax", "prod", "any", "all", "median", "norm", "flip", "sort", "argsort", "topk", "normalize",
}  # fmt: skip
"""Functions that compute along dimensions which they are told."""
_OVER_ALL = (
    *WINDOWS, "interpolate", "adaptive_", "group_norm", "instance_norm", "roll", "fft", "scaled_dot", "multi_head",
)  # fmt: skip
"""How the names of others begin that compute from several positions."""


def why_depends_on_size(tracker: Tracker, name: str, args: Any, kwargs: Any) -> str | None:
    """Why a call without tensors of lengths computes from a padded size what each sample would have otherwise."""
    leaves = leaves_of((args, kwargs))
    differ = [leaf for leaf in leaves if differing(leaf) is not None]
    ends = [leaf for leaf in leaves if isinstance(leaf, slice) and differing(leaf.stop) is not None]
    begins = [leaf for leaf in leaves if isinstance(leaf, slice) and differing(leaf.start) is not None]
    is_value = (
        (name == "getitem" and differ)
        or (name == "arange" and len(args) > 1 and differing(args[0]) is not None)
        or (name in ("full", "new_full") and differing(kwargs.get("fill_value", args[-1])) is not None)
    )
    if begins or is_value or ((differ or ends) and name not in _SHAPED_BY_SIZES):
        return (
            "values are made from the size of the padded batch, and each sample by itself would have others"
        )
    first = next(flat((args, kwargs)), None)
    sizes = tracker.padded_sizes(first)
    if first is not None and any(
        first.shape[dim] in sizes for dim in _dims_worked_along(name, first, args, kwargs)
    ):
        return "it goes over positions of a constant of the padded size, and each sample by itself would have fewer"
    return None


def _dims_worked_along(name: str, x: Tensor, args: Any, kwargs: Any) -> list[int]:
    """The dimensions of a tensor whose elements a function computes with together."""
    if name.startswith(_OVER_ALL):
        return list(range(x.ndim))
    if name in ("linear", "matmul", "mm", "bmm"):
        return [x.ndim - 1]
    if name not in _ALONG_DIM:
        return []
    second = args[1] if len(args) > 1 and not isinstance(args[1], (bool, Tensor, float)) else None
    dim = kwargs.get("dim", kwargs.get("dims", second))
    if dim is None:
        return [] if any(isinstance(other, Tensor) for other in args[1:]) else list(range(x.ndim))
    return [each % x.ndim for each in (dim if isinstance(dim, (tuple, list)) else (dim,))]


def note_constants(tracker: Tracker, result: Any, arguments: Any) -> Any:
    """Note that results have no lengths, and which of their sizes are padded ones."""
    leaves = leaves_of(arguments)
    ends = [leaf.stop if isinstance(leaf, slice) else leaf for leaf in leaves]
    sizes = {plain_number(end) for end in ends if differing(end) is not None}
    for tensor in flat(arguments):
        sizes |= tracker.padded_sizes(tensor)
    for tensor in flat(result):
        own = sizes & set(tensor.shape)
        tracker.set(tensor, Sized(frozenset(own)) if own else None)
    x, key = arguments[0][:2] if len(arguments[0]) > 1 else (None, None)
    if result is None and isinstance(x, Tensor) and any(isinstance(part, Tensor) for part in leaves_of(key)):
        tracker.set(x, None)  # written to at indices of its own, as a mask is made of lengths
    return result
