"""Recurrent networks of torch: run on packed sequences, so that each ends, and turns around, where it does alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from normsmith.anatomy.forward import flat
from normsmith.anatomy.lengths.layouts import Layout, LayoutError, Packed, Samples, Steps, plain
from normsmith.anatomy.lengths.tracker import Call, Rule


def _network(call: Call) -> Any:
    """`lstm`, `gru` and `rnn` as torch's modules call them, on a padded batch or on packed data."""
    tracker, x = call.tracker, call.first
    layout = tracker.of(x)
    if (
        isinstance(call.args[1], Tensor) and call.args[1].dtype == torch.int64
    ):  # packed: the batch sizes come second
        return _on_packed(call, layout)
    _, hx, weights, has_biases, layers, dropout, training, both_ways, batch_first = call.args
    time, samples = (1, 0) if batch_first else (0, 1)
    steps = layout.steps_of(time)
    if steps is None or layout.dim_of_samples() != samples or not layout.is_plain(2):
        raise LayoutError(
            f"expected (time, samples, features), or samples first, got dimensions {layout.dims}"
        )
    packed = pack_padded_sequence(tracker.filled(x), list(steps.lengths), batch_first, enforce_sorted=False)
    order, back = packed.sorted_indices, packed.unsorted_indices
    assert order is not None and back is not None  # noqa: PT018  it was not sorted
    states = (
        tuple(state.index_select(1, order) for state in hx)
        if isinstance(hx, tuple)
        else hx.index_select(1, order)
    )
    data, *last = call.function(
        packed.data, packed.batch_sizes, states, weights, has_biases, layers, dropout, training, both_ways
    )
    output, _ = pad_packed_sequence(packed._replace(data=data), batch_first, total_length=steps.size)
    tracker.set(output, layout.with_dims({2: plain(output.shape[2])}))
    last = [state.index_select(1, back) for state in last]
    for state in last:
        tracker.set(state, Layout.of_shape(state.shape, {1: Samples(tracker.samples)}))
    return (output, *last)


def _on_packed(call: Call, layout: Layout) -> Any:
    """Data that somebody has packed: each sequence ends where it does alone."""
    data, *last = result = call.run()
    call.tracker.set(data, layout.with_plain_sizes(data.shape))
    for state in flat(last):
        call.tracker.set(state, Layout.of_shape(state.shape, {1: Samples(call.tracker.samples)}))
    return result


def _pack(call: Call) -> Any:
    """`pack_padded_sequence` by the lengths that the samples have there."""
    x, lengths, batch_first = call.args
    layout = call.tracker.of(x)
    steps = layout.steps_of(1 if batch_first else 0)
    if steps is None or layout.dim_of_samples() != (0 if batch_first else 1):
        raise LayoutError("what is packed has its samples or lengths in another dimension")
    if tuple(lengths.tolist()) != steps.lengths:
        raise LayoutError(
            f"it is packed by the lengths {lengths.tolist()}, and those followed are {list(steps.lengths)}"
        )
    data, sizes = call.run()
    packed = Packed(steps.axis, steps.lengths, data.shape[0])
    call.tracker.set(data, Layout(((packed,), *layout.dims[2:])))
    return data, call.tracker.set(sizes, None)


def _unpack(call: Call) -> Any:
    """`pad_packed_sequence`."""
    data, _, batch_first, *_ = call.args
    layout = call.tracker.of(data)
    packed = layout.dims[0][0] if layout.dims[0] else None
    if not isinstance(packed, Packed):
        raise LayoutError("what is unpacked was not packed here")
    output, lengths = call.run()
    size = output.shape[1 if batch_first else 0]
    steps, samples = (Steps(packed.axis, packed.lengths, size),), (Samples(call.tracker.samples),)
    first = (samples, steps) if batch_first else (steps, samples)
    call.tracker.set(output, Layout((*first, *layout.dims[1:])))
    return output, call.tracker.set(lengths, None)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _network),
    "pack_padded_sequence": _pack,
    "pad_packed_sequence": _unpack,
}
