"""Functions that compute each element from the elements at its place: lengths stay what they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normsmith._torch import map_leaves
from normsmith.anatomy.forward import flat
from normsmith.anatomy.kinds import ACTIVATION_FUNCTIONS
from normsmith.anatomy.lengths.constants import note_constants, why_depends_on_size
from normsmith.anatomy.lengths.sizes import PerSample, differing
from normsmith.anatomy.lengths.tracker import Call, LayoutError, Rule

FUNCTIONS = ACTIVATION_FUNCTIONS | {
    "add", "sub", "rsub", "subtract", "mul", "multiply", "div", "divide", "truediv", "rdiv", "rtruediv", "itruediv",
    "floordiv", "floor_divide", "remainder", "mod", "fmod", "pow", "rpow", "ipow", "square", "sqrt", "rsqrt", "exp",
    "expm1", "exp2", "log", "log1p", "log2", "log10", "neg", "negative", "abs", "absolute", "sign", "sin", "cos", "tan",
    "sinh", "cosh", "atan", "atan2", "asin", "acos", "erf", "erfc", "floor", "ceil", "round", "trunc", "frac",
    "reciprocal", "clamp", "clip", "clamp_min", "clamp_max", "nan_to_num", "lerp", "addcmul", "addcdiv", "where",
    "maximum", "minimum", "fmax", "fmin", "masked_fill", "eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf",
    "isfinite", "logical_and", "logical_or", "logical_not", "logical_xor", "and", "or", "xor", "invert", "rand",
    "ror", "rxor", "iand", "ior", "ixor", "bitwise_and", "bitwise_or", "bitwise_not", "sigmoid", "logit", "logaddexp",
    "xlogy", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
    "clone", "detach", "contiguous", "float", "half", "double", "bfloat16", "long", "int", "bool", "cpu", "cuda",
    "type", "copy", "real", "imag", "zeros_like", "ones_like", "rand_like", "randn_like", "empty_like",
    "full_like", "bernoulli", "zero", "fill", "hardtanh", "hardshrink", "softshrink", "tanhshrink", "threshold",
    "requires_grad", "get data", "get real", "get imag", "get grad", "alias", "positive", "pos",
}  # fmt: skip
"""By their plain names, methods and operators too."""

ASKING = {
    "dim", "ndimension", "is_floating_point", "is_complex", "is_contiguous", "get_device", "element_size", "stride",
    "storage_offset", "data_ptr", "hash", "repr", "str", "format", "register_hook", "retain_grad", "backward",
    "untyped_storage", "is_same_size", "is_nonzero", "is_inference", "is_conj", "is_neg", "is_shared", "is_pinned",
}  # fmt: skip
"""Functions that return no numbers of a tensor."""


def elementwise(call: Call) -> Any:
    """Note the layout that the arguments have together, and put the numbers of each sample in the place of a size."""
    tracker = call.tracker
    args, kwargs = call.args, call.kwargs
    if any(differing(value) is not None for value in (*args, *kwargs.values())):
        args, kwargs = map_leaves(lambda leaf: _of_samples(call, leaf), (args, kwargs))
    result = call.function(*args, **kwargs)
    return tracker.elementwise(result, (args, kwargs))


def _of_samples(call: Call, value: Any) -> Any:
    """A size, as a tensor with a number for each sample, which is broadcast against the call's tensor."""
    if not isinstance(value, PerSample) or differing(value) is None:
        return value
    tracker = call.tracker
    x = next(tensor for tensor in flat((call.args, call.kwargs)) if tracker.layout(tensor) is not None)
    layout = tracker.of(x)
    dim = layout.dim_of_samples()
    if dim is None:
        tracker.refuse(
            f"{call.name} takes a size that differs from sample to sample, and has none of the samples"
        )
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    numbers = torch.tensor(value.values, dtype=dtype, device=x.device)
    numbers = numbers.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    return tracker.set(numbers, layout.with_dims({i: () for i in range(x.ndim) if i != dim}))


def _like_first(call: Call) -> Any:
    """Of a dtype or device that another argument may say."""
    if not call.tracker.is_tracked(call.args[0]):
        return note_constants(call.tracker, call.run(), (call.args[:1], {}))
    return call.tracker.elementwise(call.run(), call.args[0])


def _constant(call: Call) -> Any:
    """A tensor of new values, which has only its dtype and device from what has lengths."""
    if why := why_depends_on_size(call.tracker, call.name, call.args, call.kwargs):
        raise LayoutError(why)
    return note_constants(call.tracker, call.run(), (call.args[1:], call.kwargs))


def _ask(call: Call) -> Any:
    return call.run()


def _set(call: Call) -> Any:
    """An attribute that is set: those that say nothing about numbers."""
    if call.name not in ("set requires_grad", "set grad"):
        call.tracker.refuse(f"its code {call.name} of a tensor")
    return call.run()


def _set_item(call: Call) -> Any:
    """Numbers that are written into a tensor by a mask or at plain indices."""
    x, key, value = call.args
    tracker = call.tracker
    layout = tracker.layout(x)
    parts = key if isinstance(key, tuple) else (key,)
    whole = all(
        part is Ellipsis or part == slice(None) if not isinstance(part, Tensor) else False for part in parts
    )
    by_mask = len(parts) == 1 and isinstance(key, Tensor) and key.dtype == torch.bool
    if (
        layout is None
        or tracker.is_tracked(value)
        or not (whole or (by_mask and not isinstance(value, Tensor)))
    ):
        tracker.refuse("numbers are written to indices of a tensor")
    if tracker.is_tracked(key) and layout != tracker.layout(key):
        tracker.refuse("numbers are written by a mask of other lengths")
    return call.run()


RULES: dict[str, Rule] = {
    **dict.fromkeys(FUNCTIONS, elementwise),
    **dict.fromkeys(ASKING, _ask),
    **dict.fromkeys(("set requires_grad", "set grad", "set data"), _set),
    **dict.fromkeys(("to", "type_as"), _like_first),
    **dict.fromkeys(
        ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "result_type"), _constant
    ),
    "setitem": _set_item,
}
