"""Linear layers, products of matrices, softmax and attention."""

from __future__ import annotations

import math
from typing import Any

import torch

from normsmith.anatomy.lengths.layouts import Dim, Layout, LayoutError, plain, together
from normsmith.anatomy.lengths.tracker import Call, Lost, Rule

_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_HEADS = ("query", "key", "value")


def _linear(call: Call) -> Any:
    """Weights over plain features, of zeros where it is not valid: else NaN there would reach the weights' gradient."""
    named = call.named("input", "weight", "bias")
    tracker = call.tracker
    if tracker.is_tracked(named["weight"]):
        raise LayoutError("its weights are computed from what has lengths")
    layout = tracker.of(named["input"])
    if not layout.is_plain(-1):
        raise LayoutError("its features are samples or lengths, and its weights are made for one length")
    result = call.with_first(tracker.filled(named["input"]))
    return tracker.set(result, layout.with_dims({len(layout.dims) - 1: plain(result.shape[-1])}))


def _embedding(call: Call) -> Any:
    named = call.named("input", "weight", "padding_idx")
    result = call.run()
    layout = call.tracker.layout(named["input"])
    if layout is None:
        raise LayoutError("the table is computed from what has lengths")
    return call.tracker.set(result, Layout((*layout.dims, plain(result.shape[-1]))))


def _product(call: Call) -> Any:
    """`matmul`, `bmm`, `mm`: a sum over lengths leaves out what is not valid."""
    a, b = (
        call.args[:2]
        if len(call.args) > 1
        else (call.args[0], call.kwargs.get("other", call.kwargs.get("mat2")))
    )
    if call.name == "rmatmul":
        a, b = b, a
    tracker = call.tracker
    if a.ndim < 2 or b.ndim < 2:
        raise LayoutError("a product with a vector; use F.linear or an explicit sum")
    of_a, of_b = tracker.of(a), tracker.of(b)
    _check_contraction(call, of_a.dims[-1], of_b.dims[-2], tracker.is_tracked(a), tracker.is_tracked(b))
    if not of_a.is_plain(-1):
        a, b = tracker.filled(a, 0.0, [a.ndim - 1]), tracker.filled(b, 0.0, [b.ndim - 2])
    result = torch.matmul(a, b)
    outer = together([Layout(of_a.dims[:-2]), Layout(of_b.dims[:-2])], result.shape[:-2])
    return tracker.set(result, Layout((*outer.dims, of_a.dims[-2], of_b.dims[-1])))


def _check_contraction(
    call: Call, one: Dim, other: Dim, one_is_tracked: bool, other_is_tracked: bool
) -> None:
    """Refuse a sum over lengths with what has none, or has others."""
    if Layout((one,)).is_plain(0) and Layout((other,)).is_plain(0):
        return
    if one != other:
        what = "lengths that differ" if one_is_tracked and other_is_tracked else "lengths and a fixed size"
        raise LayoutError(f"a product sums over {what}: weights over positions are made for one length")


def _einsum(call: Call) -> Any:
    """Letters stand for dimensions; those that are summed over are 0 where they are not valid."""
    tracker = call.tracker
    equation, *operands = call.args
    operands = (
        list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    )
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    if "." in equation or not arrow:
        raise LayoutError("an einsum with an ellipsis, or without an output; write all letters")
    dims: dict[str, Dim] = {}
    for letters, operand in zip(inputs.split(","), operands, strict=True):
        for letter, dim in zip(letters, tracker.of(operand).dims, strict=True):
            known = dims.setdefault(letter, dim)
            special = [each for each in (known, dim) if not Layout((each,)).is_plain(0)]
            if special and known != dim and letter not in output:
                raise LayoutError(
                    f"the sum over {letter!r} is of lengths and of a fixed size, or of other lengths"
                )
            if len(special) == 2 and known != dim:
                raise LayoutError(f"dimensions {letter!r} have different lengths")
            dims[letter] = special[0] if special else dim
    filled = [
        tracker.filled(operand, 0.0, [i for i, letter in enumerate(letters) if letter not in output])
        for letters, operand in zip(inputs.split(","), operands, strict=True)
    ]
    return tracker.set(torch.einsum(equation, *filled), Layout(tuple(dims[letter] for letter in output)))


def _softmax(call: Call) -> Any:
    """A softmax over lengths gives what is not valid no weight."""
    named = call.named("input", "dim", "_stacklevel", "dtype")
    x, dim = named["input"], named.get("dim")
    layout = call.tracker.of(x)
    if dim is None:
        raise LayoutError("a softmax without dim")
    if not layout.is_plain(dim) and layout.steps_of(dim) is None:
        raise LayoutError("a softmax over samples, or over merged lengths")
    value = math.inf if call.name == "softmin" else -math.inf
    result = call.with_first(call.tracker.filled(x, value, [dim % x.ndim]))
    if call.name == "log_softmax" and not layout.is_plain(dim):
        return call.tracker.filled(call.tracker.set(result, layout), 0.0, [dim % x.ndim])
    return call.tracker.set(result, layout)


def _attention(call: Call) -> Any:
    """Attention with the user's mask; without one it does not look at what is not valid."""
    named = call.named(*_ATTENTION)
    tracker = call.tracker
    query, key, value = (tracker.of(named[name]) for name in _HEADS)
    mask = key.valid(named["key"].device, [named["key"].ndim - 2])
    if mask is not None and named.get("attn_mask") is None and not named.get("is_causal", False):
        named["attn_mask"] = mask.transpose(-1, -2)
        named["attn_mask"] = named["attn_mask"].expand(*mask.shape[:-2], query.shape[-2], key.shape[-2])
    if tracker.is_tracked(named["value"]):
        named["value"] = tracker.filled(named["value"])
    result = call.function(**named)
    outer = together([Layout(query.dims[:-2]), Layout(value.dims[:-2])], result.shape[:-2])
    return tracker.set(result, Layout((*outer.dims, query.dims[-2], plain(result.shape[-1]))))


def _multi_head_attention(call: Call) -> Any:
    """`nn.MultiheadAttention`, of (time, samples, features), likewise."""
    kwargs = dict(call.kwargs)
    tracker = call.tracker
    query, key = call.args[0], call.args[1]
    layout, of_key = tracker.of(query), tracker.of(key)
    mask = of_key.valid(key.device)
    masked = any(kwargs.get(name) is not None for name in ("key_padding_mask", "attn_mask")) or kwargs.get(
        "is_causal"
    )
    if mask is not None and not masked:
        if of_key.steps_of(0) is None or of_key.dim_of_samples() != 1:
            raise LayoutError("attention over a layout other than (time, samples, features)")
        kwargs["key_padding_mask"] = ~mask[..., 0].T
    filled = [tracker.filled(tensor) if tracker.is_tracked(tensor) else tensor for tensor in call.args[:3]]
    output, weights = call.function(*filled, *call.args[3:], **kwargs)
    tracker.set(output, layout)
    if weights is not None:
        tracker.set(
            weights, Lost("it uses the weights of a multi-head attention, whose lengths are not followed")
        )
    return output, weights


RULES: dict[str, Rule] = {
    "linear": _linear, "embedding": _embedding, "matmul": _product, "rmatmul": _product,
    "bmm": _product, "mm": _product, "einsum": _einsum,
    "softmax": _softmax, "log_softmax": _softmax, "softmin": _softmax,
    "scaled_dot_product_attention": _attention, "multi_head_attention_forward": _multi_head_attention,
}  # fmt: skip
