"""Indices and slices: what each sample by itself would have at them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normsmith.anatomy.lengths.layouts import Dim, Layout, LayoutError, Steps, plain, with_lengths
from normsmith.anatomy.lengths.sizes import differing, plain_number, values_of
from normsmith.anatomy.lengths.tracker import Call, Rule


def _item(call: Call) -> Any:
    """`x[…]`."""
    x, key = call.args
    tracker = call.tracker
    if not isinstance(x, Tensor) or not tracker.is_tracked(x):
        raise LayoutError("a constant is indexed by what has lengths")
    parts = _one_for_each_dim(list(key) if isinstance(key, tuple) else [key], x.ndim)
    x, parts = _at_ends(call, x, parts)
    layout = tracker.of(x)
    result = call.function(x, tuple(parts))
    dims, dim = list[Dim](), 0
    for part in parts:
        if part is None:
            dims.append(())
            continue
        if isinstance(part, slice):
            dims.append(_sliced(layout, dim, part, x.shape[dim]))
        elif isinstance(part, int) and not isinstance(part, bool):
            _check_index(layout, dim, part)
        elif not (
            isinstance(part, Tensor)
            and part.ndim == 1
            and layout.is_plain(dim)
            and not tracker.is_tracked(part)
        ):
            raise LayoutError(f"dimension {dim} is indexed by {type(part).__name__}")
        else:
            dims.append(plain(int(part.sum()) if part.dtype == torch.bool else len(part)))
        dim += 1
    if sum(isinstance(part, Tensor) for part in parts) > 1 or len(dims) != result.ndim:
        raise LayoutError("several dimensions are indexed by tensors")
    return tracker.set(result, Layout(tuple(dims)))


def _one_for_each_dim(parts: list[Any], ndim: int) -> list[Any]:
    """The parts of a key with whole slices for what an ellipsis, or the end, leaves out."""
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    if any(isinstance(part, Tensor) and part.dtype == torch.bool and part.ndim != 1 for part in parts):
        raise LayoutError("elements are chosen by a mask")
    rest = [slice(None)] * (ndim - taken)
    place = next((i for i, part in enumerate(parts) if part is Ellipsis), None)
    return [*parts, *rest] if place is None else [*parts[:place], *rest, *parts[place + 1 :]]


def _at_ends(call: Call, x: Tensor, parts: list[Any]) -> tuple[Tensor, list[Any]]:
    """Take the position that an index counts from the end of each sample, as `x[:, -1]`."""
    tracker, dim = call.tracker, -1
    for place, part in enumerate(parts):
        dim += part is not None
        if part is None or not isinstance(part, int) or isinstance(part, bool):
            continue
        layout = tracker.of(x)
        steps, samples = layout.steps_of(dim), layout.dim_of_samples()
        if steps is None or (part >= 0 and differing(part) is None):
            continue
        given = values_of(part, len(steps.lengths))
        numbers = [n + length if n < 0 else n for n, length in zip(given, steps.lengths, strict=True)]
        if samples is None or any(
            not 0 <= n < length for n, length in zip(numbers, steps.lengths, strict=True)
        ):
            raise LayoutError(f"position {part} is not there for every sample")
        index = torch.tensor(numbers, device=x.device).reshape(
            [-1 if i == samples else 1 for i in range(x.ndim)]
        )
        x = tracker.set(torch.take_along_dim(x, index, dim), layout.with_dims({dim: ()}))
        parts[place] = 0
    return x, parts


def _check_index(layout: Layout, dim: int, index: int) -> None:
    """Refuse an index that takes one sample, or a position that is not there for all of them."""
    steps = layout.steps_of(dim)
    if not layout.is_plain(dim) and (steps is None or index >= min(steps.lengths)):
        raise LayoutError(f"index {index} of dimension {dim}, which some sample by itself does not have")


def _sliced(layout: Layout, dim: int, part: slice, size: int) -> Dim:
    """What a slice leaves of a dimension."""
    padded = slice(*map(plain_number, (part.start, part.stop, part.step)))
    whole = len(range(size)[padded])
    if layout.is_plain(dim):
        return plain(whole)
    if part == slice(None):
        return layout.dims[dim]
    steps = layout.steps_of(dim)
    if steps is None:
        if whole == size and (part.step is None or part.step == 1):
            return layout.dims[dim]
        raise LayoutError(f"some of the samples, or of merged dimensions, are taken in dimension {dim}")
    return (with_lengths(steps, _lengths_of_slice(steps, part, size), whole),)


def _lengths_of_slice(steps: Steps, part: slice, size: int) -> list[int]:
    """How many positions a slice leaves of each sample."""
    if differing(part.stop) is None and isinstance(part.stop, int) and 0 <= part.stop < size:
        raise LayoutError(
            f"a slice ends at {part.stop}, and whether that is a number of the code or comes from the padded size is "
            "not known; count from the end (a negative number), or use x.size(…)"
        )
    number = len(steps.lengths)
    bounds = [values_of(bound, number) for bound in (part.start, part.stop, part.step)]
    slices = [slice(*each) for each in zip(*bounds, strict=True)]
    first = slice(*map(plain_number, (part.start, part.stop, part.step))).indices(size)[0]
    if any(each.indices(length)[0] != first for each, length in zip(slices, steps.lengths, strict=True)):
        raise LayoutError("a slice begins at another position in each sample")
    return [len(range(length)[each]) for each, length in zip(slices, steps.lengths, strict=True)]


def _selected(call: Call) -> Any:
    """`x.select(dim, index)` and `x.narrow(dim, start, length)`, as an index."""
    named = call.named("input", "dim", *(("index",) if call.name == "select" else ("start", "length")))
    x = named["input"]
    dim = named["dim"] % x.ndim
    is_one = call.name == "select"
    part = named["index"] if is_one else slice(named["start"], named["start"] + named["length"])
    key = (*[slice(None)] * dim, part)
    return _item(Call(call.tracker, call.name, Tensor.__getitem__, (x, key), {}))


RULES: dict[str, Rule] = {"getitem": _item, "select": _selected, "narrow": _selected}
