"""Convolutions and poolings: windows that must read of each sample what they would read of it alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from normsmith.anatomy.lengths.layouts import Dim, LayoutError, plain, with_lengths
from normsmith.anatomy.lengths.rules.averages import RULES as AVERAGES
from normsmith.anatomy.lengths.sizes import differing, plain_number, values_of
from normsmith.anatomy.lengths.tracker import Call, Lost, Rule

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_MAX = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVERAGE = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def _convolution(call: Call) -> Any:
    """Zeros stand where the padding of a sample by itself would; of strings, "same" keeps the length."""
    named = call.named(*_CONV)
    x, weight = named["input"], named["weight"]
    n = weight.ndim - 2
    x, dims = _prepared(call, x, n, 0.0)
    _check_weight(call, weight)
    result = call.with_first(x)
    padding = named.get("padding", 0)
    for i, dim in enumerate(range(x.ndim - n, x.ndim)):
        stride, dilation = (_at(named.get(name, 1), i) for name in ("stride", "dilation"))
        reach = dilation * (weight.shape[2 + i] - 1)
        around = {"same": reach, "valid": 0}[padding] if isinstance(padding, str) else 2 * _at(padding, i)
        dims[dim] = _after(
            call,
            x,
            dim,
            result.shape[dim],
            lambda length, s=stride, r=around - reach: (length + r - 1) // s + 1,
        )
    return _noted(call, x, dims, result, n)


def _transposed(call: Call) -> Any:
    """Convolutions that make positions more."""
    named = call.named(*_TRANSPOSED)
    x, weight = named["input"], named["weight"]
    n = weight.ndim - 2
    x, dims = _prepared(call, x, n, 0.0)
    _check_weight(call, weight)
    result = call.with_first(x)
    for i, dim in enumerate(range(x.ndim - n, x.ndim)):
        stride, dilation = (_at(named.get(name, 1), i) for name in ("stride", "dilation"))
        padding, more = (_at(named.get(name, 0), i) for name in ("padding", "output_padding"))
        reach = dilation * (weight.shape[2 + i] - 1) + 1 + more - 2 * padding
        dims[dim] = _after(
            call, x, dim, result.shape[dim], lambda length, s=stride, r=reach: (length - 1) * s + r
        )
    return _noted(call, x, dims, result, n)


def _max_pooling(call: Call) -> Any:
    """−∞ stands where a sample has ended; what is not valid of the result is 0."""
    named = call.named(*_MAX)
    n = _dimensions(call.name)
    if _takes_all(call, named, n):
        return _of_all(call.of(getattr(F, f"adaptive_max_pool{n}d"), named["input"], 1))
    x, dims = _prepared(call, named["input"], n, -float("inf"))
    result = call.with_first(x)
    values = result if isinstance(result, Tensor) else result[0]
    _pooled(named, x, dims, values, call, n)
    _noted(call, x, dims, values, n)
    if isinstance(result, Tensor):
        return call.tracker.filled(values)
    call.tracker.set(
        result[1], Lost("it uses the indices of a max pooling, which count in the padded tensor")
    )
    return call.tracker.filled(values), result[1]


def _average_pooling(call: Call) -> Any:
    """Windows that leave out what is not valid, and divide by as many values as they would for a sample by itself."""
    named = call.named(*_AVERAGE)
    n = _dimensions(call.name)
    if _takes_all(call, named, n):
        return _of_all(call.of(getattr(F, f"adaptive_avg_pool{n}d"), named["input"], 1))
    x, dims = _prepared(call, named["input"], n, 0.0)
    layout = call.tracker.of(x)
    counts_padding = named.get("count_include_pad", True)
    paddings = named.get("padding", 0)
    is_plain_sum = counts_padding and not named.get("ceil_mode", False)
    mask = layout.valid(x.device, range(x.ndim - n, x.ndim))
    if is_plain_sum or named.get("divisor_override") is not None or mask is None:
        result = call.with_first(x)
    else:
        if counts_padding and any(_at(paddings, i) for i in range(n)):
            raise LayoutError("ceil_mode with padding that is counted; set count_include_pad=False")
        # the divisors of both are the same, whatever the windows hold
        ones = mask.to(x.dtype).expand([*mask.shape[: x.ndim - n], *x.shape[x.ndim - n :]])
        every = {**named, "count_include_pad": True}
        sums = call.function(**{**every, "input": x})
        counts = call.function(**{**every, "input": ones})
        result = sums / counts.clamp_min(1e-12)
    _pooled(named, x, dims, result, call, n)
    return _noted(call, x, dims, result, n)


def _of_all(call: Call) -> Any:
    """One value of all positions."""
    return AVERAGES[call.name](call)


def _takes_all(call: Call, named: dict[str, Any], n: int) -> bool:
    """Whether a window is as large as each sample, as in `F.avg_pool2d(x, x.size()[2:])`."""
    x, kernel = named["input"], named["kernel_size"]
    sizes = [_at(kernel, i) for i in range(n)]
    if all(differing(size) is None for size in sizes):
        return False
    layout = call.tracker.of(x)
    all_of = [layout.steps_of(dim) for dim in range(x.ndim - n, x.ndim)]
    is_all = all(
        plain_number(size) == x.shape[x.ndim - n + i]
        and (steps is None or values_of(size, len(steps.lengths)) == steps.lengths)
        for i, (size, steps) in enumerate(zip(sizes, all_of, strict=True))
    )
    if not is_all or named.get("padding", 0) not in (0, (0,) * n, [0] * n) or named.get("return_indices"):
        raise LayoutError("a window whose size depends on that of the padded batch")
    return True


def _pooled(
    named: dict[str, Any], x: Tensor, dims: dict[int, Dim], result: Tensor, call: Call, n: int
) -> None:
    for i, dim in enumerate(range(x.ndim - n, x.ndim)):
        kernel = _at(named["kernel_size"], i)
        stride = _at(named.get("stride") or named["kernel_size"], i)
        padding, dilation = _at(named.get("padding", 0), i), _at(named.get("dilation", 1), i)
        rounds_up = named.get("ceil_mode", False)

        def after(
            length: int,
            k: int = kernel,
            s: int = stride,
            p: int = padding,
            d: int = dilation,
            up: bool = rounds_up,
        ) -> int:
            rest = length + 2 * p - d * (k - 1) - 1
            number = -(-rest // s) + 1 if up else rest // s + 1
            return number - 1 if up and (number - 1) * s >= length + p else number  # as torch counts

        dims[dim] = _after(call, x, dim, result.shape[dim], after)


def _prepared(call: Call, x: Tensor, n: int, value: float) -> tuple[Tensor, dict[int, Dim]]:
    """The input with a value in the place of what its windows must not see, and room for the dimensions it changes."""
    layout = call.tracker.of(x)
    spatial = list(range(x.ndim - n, x.ndim))
    if not layout.is_plain(-n - 1):
        raise LayoutError("its channels are samples or lengths")
    for dim in spatial:
        if not layout.is_plain(dim) and layout.steps_of(dim) is None:
            raise LayoutError(f"its windows move along dimension {dim}, of samples or of merged lengths")
    return call.tracker.filled(x, value, spatial), {}


def _check_weight(call: Call, weight: Tensor) -> None:
    if call.tracker.is_tracked(weight):
        raise LayoutError("its weights are computed from what has lengths")


def _after(call: Call, x: Tensor, dim: int, size: int, length_after: Any) -> Dim:
    """A dimension after windows have moved along it."""
    steps = call.tracker.of(x).steps_of(dim)
    if steps is None:
        return plain(size)
    if length_after(steps.size) != size:
        raise LayoutError(f"expected {length_after(steps.size)} positions after it, got {size}")
    return (with_lengths(steps, [max(0, length_after(length)) for length in steps.lengths], size),)


def _noted(call: Call, x: Tensor, dims: dict[int, Dim], result: Tensor, n: int) -> Any:
    layout = call.tracker.of(x).with_dims({**dims, x.ndim - n - 1: plain(result.shape[-n - 1])})
    return call.tracker.set(result, layout)


def _at(value: int | Sequence[int], i: int) -> Any:
    """The setting of a dimension: one number may serve all."""
    if not isinstance(value, (tuple, list)):
        return value
    return value[i] if len(value) > 1 else value[0]


def _dimensions(name: str) -> int:
    """How many dimensions a function's windows have, by its name."""
    return int(next(character for character in name if character.isdigit()))


RULES: dict[str, Rule] = {
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _transposed for n in (1, 2, 3)},
    **{f"max_pool{n}d{end}": _max_pooling for n in (1, 2, 3) for end in ("", "_with_indices")},
    **{f"avg_pool{n}d": _average_pooling for n in (1, 2, 3)},
}
