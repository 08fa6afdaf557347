"""Functions that put numbers elsewhere: transposed, reshaped, joined, cut into parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normsmith.anatomy.forward import flat
from normsmith.anatomy.lengths.layouts import Dim, Layout, LayoutError, Steps, plain, together, with_lengths
from normsmith.anatomy.lengths.sizes import Size, differing, plain_number, values_of
from normsmith.anatomy.lengths.tracker import Call, Rule


def _shape(call: Call) -> Any:
    """`x.shape` and `x.size()`, whose numbers know those of each sample."""
    x = call.args[0]
    named = call.named("self", "dim")
    if named.get("dim") is not None:
        return call.tracker.size(x, named["dim"] % x.ndim)
    return torch.Size([call.tracker.size(x, dim) for dim in range(x.ndim)])


def _count(call: Call) -> Any:
    """`x.numel()` of a sample by itself, where lengths are alone in their dimensions."""
    x, tracker = call.args[0], call.tracker
    layout = tracker.of(x)
    if any(
        layout.steps_of(i) is None and not layout.is_plain(i) and i != layout.dim_of_samples()
        for i in range(x.ndim)
    ):
        tracker.refuse("numel() of a tensor with merged dimensions")
    number = x.numel()
    values = [number // tracker.samples] * tracker.samples
    for steps in layout.steps:
        values = [value // steps.size * length for value, length in zip(values, steps.lengths, strict=True)]
    return Size(number, values, tracker) if layout.steps else number


def _length(call: Call) -> Any:
    """`len(x)`, which Python makes a plain number."""
    if call.tracker.of(call.args[0]).steps_of(0) is not None:
        call.tracker.refuse("len() of a tensor with lengths in its first dimension; use .size(0)")
    return call.run()


def moved(call: Call) -> Any:
    """Transposing and the like: done to a tensor of known sizes, whose result says where each dimension went."""
    x = call.args[0]
    layout, result = call.tracker.of(x), call.run()
    sizes = [1 if x.shape[i] == 1 and layout.is_plain(i) else i + 2 for i in range(x.ndim)]
    probe = call.with_first(torch.empty(sizes, device="meta"))
    dims = tuple(() if size == 1 else layout.dims[size - 2] for size in probe.shape)
    if len(dims) != result.ndim:
        raise LayoutError("a dimension of samples or lengths of size 1 is squeezed away")
    return call.tracker.set(result, Layout(dims))


def _reshaped(call: Call) -> Any:
    layout, result = call.tracker.of(call.first), call.run()
    if call.name == "view" and result.dtype != call.first.dtype:
        raise LayoutError("a view of another dtype")
    return call.tracker.set(result, layout.reshaped(result.shape))


def _expanded(call: Call) -> Any:
    """Dimensions of size 1 repeated: as often as a sample is long where that is what the code reads off a tensor."""
    layout, result = call.tracker.of(call.first), call.run()
    if call.name == "expand_as":
        other = call.tracker.of(call.args[1])
        return call.tracker.set(result, _grown(layout, list(other.dims), result.shape))
    sizes = call.kwargs.get(
        "size", call.args[1] if isinstance(call.args[1], (tuple, list)) else call.args[1:]
    )
    return call.tracker.set(result, _grown(layout, [_dim_of(size) for size in sizes], result.shape))


def _repeated(call: Call) -> Any:
    """`repeat`: plain dimensions, or one of size 1 as often as a sample is long."""
    layout, result = call.tracker.of(call.first), call.run()
    times = call.kwargs.get(
        "repeats", call.args[1] if isinstance(call.args[1], (tuple, list)) else call.args[1:]
    )
    return call.tracker.set(result, _grown(layout, [_dim_of(each) for each in times], result.shape))


def _grown(layout: Layout, wanted: list[Dim], shape: Sequence[int]) -> Layout:
    """A layout whose dimensions of size 1 become those that are wanted; others stay, or change as plain ones may."""
    dims = [*((),) * (len(shape) - len(layout.dims)), *layout.dims]
    wanted = [*((),) * (len(shape) - len(wanted)), *wanted]
    grown = [want if not dim and want else dim for dim, want in zip(dims, wanted, strict=True)]
    return Layout(tuple(grown)).with_plain_sizes(shape)


def _dim_of(size: Any) -> Dim:
    """The dimension that a size makes."""
    if differing(size) is None:
        return ()
    if size.axis is None:
        raise LayoutError(
            "a size is computed from that of the padded batch, and would differ between samples"
        )
    return (Steps(size.axis, size.values, plain_number(size)),)


def same_dims(call: Call) -> Any:
    """A function of plain dimensions, each result with the dimensions of the first tensor."""
    layout, result = call.tracker.of(call.first), call.run()
    for tensor in flat(result):
        call.tracker.set(tensor, layout.with_plain_sizes(tensor.shape))
    return result


def along_plain(call: Call) -> Any:
    """A function along a dimension, which has to be plain; a running sum may go along lengths too."""
    if call.name == "flip":
        dim = call.kwargs.get(
            "dims", call.args[1] if isinstance(call.args[-1], (tuple, list)) else call.args[1:]
        )
    else:
        names = ("input", "first", "dim") if call.name in _DIM_COMES_THIRD else ("input", "dim", "third")
        named = call.named(*names)
        dim = named.get("dim", named.get("axis", _DEFAULT_DIMS.get(call.name, 0)))
    layout = call.tracker.of(call.first)
    for each in dim if isinstance(dim, (tuple, list)) else (dim,):
        if not layout.is_plain(each) and not (call.name == "cumsum" and layout.steps_of(each) is not None):
            raise LayoutError(f"it works along dimension {each}, of samples or lengths")
    if call.name != "unbind":
        return same_dims(call)
    result, kept = call.run(), [d for i, d in enumerate(layout.dims) if i != dim % len(layout.dims)]
    return call.tracker.set_all(result, Layout(tuple(kept)))


_DEFAULT_DIMS = {"glu": -1, "normalize": 1, "sort": -1, "topk": -1}
_DIM_COMES_THIRD = ("split", "chunk", "tensor_split", "normalize", "topk")


def _joined(call: Call) -> Any:
    """`cat`: along channels; or constants before the steps, as a first token."""
    named = call.named("tensors", "dim")
    tensors = list(named["tensors"])
    dim = named.get("dim", named.get("axis", 0)) % tensors[0].ndim
    tracker, result = call.tracker, call.run()
    layouts = [tracker.of(tensor) for tensor in tensors]
    special = [i for i, layout in enumerate(layouts) if not layout.is_plain(dim)]
    others = [layout.with_dims({dim: ()}) for layout in layouts]
    shape = [1 if i == dim else size for i, size in enumerate(result.shape)]
    layout = together(others, shape)
    if not special:
        return tracker.set(result, layout.with_dims({dim: plain(result.shape[dim])}))
    steps = layouts[-1].steps_of(dim)
    if special != [len(tensors) - 1] or steps is None:
        raise LayoutError("tensors are joined along samples or lengths")
    more = sum(tensor.shape[dim] for tensor in tensors[:-1])
    steps = with_lengths(steps, [length + more for length in steps.lengths], result.shape[dim])
    return tracker.set(result, layout.with_dims({dim: (steps,)}))


def _stacked(call: Call) -> Any:
    """`stack`: in a new plain dimension."""
    named = call.named("tensors", "dim")
    tensors, result = list(named["tensors"]), call.run()
    dims = list(together([call.tracker.of(each) for each in tensors], tensors[0].shape).dims)
    dims.insert(named.get("dim", 0) % result.ndim, plain(len(tensors)))
    return call.tracker.set(result, Layout(tuple(dims)))


def _padded(call: Call) -> Any:
    """`F.pad` with a constant, which stands then where each sample by itself would have it."""
    named = call.named("input", "pad", "mode", "value")
    x, pad, value = named["input"], list(named["pad"]), named.get("value") or 0.0
    tracker = call.tracker
    layout = tracker.of(x)
    touched = [
        x.ndim - 1 - i
        for i in range(len(pad) // 2)
        if any(int.__add__(side, 0) for side in pad[2 * i : 2 * i + 2])
    ]
    along = [dim for dim in touched if not layout.is_plain(dim)]
    if along and named.get("mode", "constant") != "constant":
        raise LayoutError(f"padding of mode {named['mode']!r} reads what is beyond the end of a sample")
    result = call.with_first(tracker.filled(x, value, along))
    dims = {}
    for dim in touched:
        left, right = pad[2 * (x.ndim - 1 - dim) : 2 * (x.ndim - 1 - dim) + 2]
        tracker.one(left, "the padding on the left")
        dims[dim] = plain(result.shape[dim])
        if dim in along:
            steps = layout.steps_of(dim)
            if steps is None:
                raise LayoutError("samples, or lengths merged with something else, are padded")
            rights = values_of(right, len(steps.lengths))
            lengths = [length + left + end for length, end in zip(steps.lengths, rights, strict=True)]
            dims[dim] = (with_lengths(steps, lengths, result.shape[dim]),)
    return tracker.set(result, layout.with_dims(dims))


def _chosen(call: Call) -> Any:
    """`index_select`: of plain dimensions, or samples in another order."""
    named = call.named("input", "dim", "index")
    x, index = named["input"], named["index"]
    tracker, result = call.tracker, call.run()
    layout = tracker.of(x)
    dim = named["dim"] % x.ndim
    if layout.is_plain(dim):
        return tracker.set(result, layout.with_plain_sizes(result.shape))
    order = index.tolist() if isinstance(index, Tensor) and not tracker.is_tracked(index) else []
    if layout.dim_of_samples() != dim or sorted(order) != list(range(tracker.samples)):
        raise LayoutError("some of the samples or positions are selected")
    dims = tuple(
        tuple(
            Steps(atom.axis, tuple(atom.lengths[i] for i in order), atom.size)
            if isinstance(atom, Steps)
            else atom
            for atom in each
        )
        for each in layout.dims
    )
    return tracker.set(result, Layout(dims))


def _shuffled(call: Call) -> Any:
    """`pixel_shuffle`: channels become positions in height and width."""
    named = call.named("input", "upscale_factor")
    factor = named["upscale_factor"]
    layout, result = call.tracker.of(call.first), call.run()
    if not layout.is_plain(-3):
        raise LayoutError("channels are made positions, and they are samples or lengths")
    n = len(layout.dims)
    dims = {n - 3: plain(result.shape[-3])}
    for dim in (n - 2, n - 1):
        steps = layout.steps_of(dim)
        if steps is None and not layout.is_plain(dim):
            raise LayoutError("positions are merged with something else")
        size = result.shape[dim]
        lengths = [] if steps is None else [length * factor for length in steps.lengths]
        dims[dim] = plain(size) if steps is None else (with_lengths(steps, lengths, size),)
    return call.tracker.set(result, layout.with_dims(dims))


RULES: dict[str, Rule] = {
    "get shape": _shape, "size": _shape, "numel": _count, "nelement": _count, "len": _length,
    **dict.fromkeys((
        "transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "get T", "get mT", "adjoint",
        "unsqueeze", "squeeze",
    ), moved),
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as"), _reshaped),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), _expanded),
    "repeat": _repeated, "tile": _repeated,
    **dict.fromkeys(
        ("split", "chunk", "tensor_split", "unbind", "glu", "cumsum", "cumprod", "flip", "normalize", "sort", "topk"),
        along_plain,
    ),
    "cat": _joined, "concat": _joined, "concatenate": _joined, "stack": _stacked, "pad": _padded,
    "index_select": _chosen, "pixel_shuffle": _shuffled,
}  # fmt: skip
