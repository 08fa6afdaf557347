"""Batches whose channels are planes of many contiguous positions: (batch, channels, *space), channels first.

A thread takes whole channels: it reads the planes of one, decides, and reads them again while they are still in
its cache. Where there are fewer channels than threads, the parts of a channel are some of the samples, and threads
wait for one another between the phases. The planes of four samples are worked on as four rows, which memory brings
faster than one after the other. A plane that is left over is worked on as four rows, its quarters.
"""

from __future__ import annotations

import math
from typing import Any

from numpy import float64

from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.arguments import APPLY, LANES, MEASURE, SETTLE
from normsmith.ops.cpu.kernels.elements import (
    AROUND,
    COUNT,
    FIRST,
    MEAN,
    MOMENT,
    OFFSET,
    PLAIN,
    SCALE,
    SECOND,
    SHIFT,
    SLOPE,
    operations,
    stack_of_tables,
)
from normsmith.ops.cpu.kernels.lanes import fence, fill, load, size_of, store, total
from normsmith.ops.cpu.kernels.settle import merge_sums, partial_at, settle_channel, settle_gradient
from normsmith.ops.cpu.kernels.sharing import samples_of, share_of, wait_for_others
from normsmith.ops.cpu.kernels.translate import part
from normsmith.ops.cpu.kernels.vectors import ROWS, TABLE, Operation

MANY = 512 * ROWS * LANES
"""Elements whose sums are added up in the dtype of the work."""


def _over_planes(operation: Operation) -> Any:
    """Do an operation on a run of positions of the planes of some samples."""
    on_four, on_one = operation.on_four, operation.on_one

    def over(a, channel, sample, samples, begin, n, output, tables, added, coded, like, work):
        channels, positions, size, wide = a[slot.CHANNELS], a[slot.POSITIONS], size_of(like), size_of(work)
        words, ahead = (positions + LANES - 1) // LANES, positions * size  # the next channel's
        streams, line = a[slot.STREAM] != 0 and output != 0, min(64, LANES * size)
        apart = channels * positions * size
        fours = samples // ROWS
        # where planes share the sets of a cache, few of them stay there; a stream wants all aligned alike
        if (apart % 4096 == 0 and a[slot.SAMPLES] < 4 * ROWS) or (streams and apart % line != 0):
            fours = 0
        for item in range(samples - fours * (ROWS - 1)):
            plane = (sample + item + min(item, fours) * (ROWS - 1)) * channels + channel
            at, code, bits, head = (plane * positions + begin) * size, 0, 0, 0
            if coded is not None:
                code = a[slot.CODE] + (plane // channels * positions + begin) * wide
            if added is not None:
                if a[slot.BITS] != 0:
                    bits = a[slot.BITS] + (plane * words + begin // LANES) * 2
            if streams and bits == 0:  # up to where the output is aligned
                head = min(n, (line - (output + at) % line) % line // size)
            planes, whole = ROWS, (n - head) // LANES * LANES
            between, codes, bytes_ = apart, positions * wide, channels * words * 2
            if item >= fours:
                planes, whole = 1, (n - head) // (ROWS * LANES) * LANES
                between, codes, bytes_ = whole * size, whole * wide, whole // 8
            on_four(
                a[slot.SELF], at + head * size, between, whole, code + head * wide if code != 0 else 0,
                codes, bits, bytes_, ahead, tables, added, coded, like, work,
            )  # fmt: skip
            done = head + whole * ROWS // planes
            for r in range(planes):
                skip, remaining = 0, head
                for _ in range(2):  # what comes before and after the whole vectors
                    on_one(
                        a[slot.SELF], at + r * between + skip * size, 0, remaining,
                        code + r * codes + skip * wide if code != 0 else 0, 0,
                        bits + r * bytes_ + skip // 8 if bits != 0 else 0, 0, ahead, tables, added, coded, like, work,
                    )  # fmt: skip
                    skip, remaining = done, n - done

    return part(over)


_sum_planes, _normalise_planes, _sum_gradient_planes, _differentiate_planes = (
    _over_planes(operation) for operation in operations(by_column=False).values()
)


@part
def _set(tables, table, value, work):
    """Set the 16 numbers of a table to a value."""
    fill(tables + table * TABLE * size_of(work), LANES, value, work)


@part
def _total(tables, table, work):
    """The sum of the 16 numbers of a table."""
    return float64(total(tables + table * TABLE * size_of(work), work))


@part
def _together(positions):
    """How many samples are summed in the dtype of the work, before their sums are added to the others."""
    return max(ROWS, MANY // positions // ROWS * ROWS)


@part
def _first_counted(a, start, stop, work):
    """Sample and position of the first element of a part that is not padding."""
    positions = a[slot.POSITIONS]
    for i in range(start * positions, stop * positions):
        if load(a[slot.CODE], i, work) > 0:
            return i // positions, i % positions
    return start, 0


@part
def _measure(a, channel, group, number, tables, added, coded, like, work):
    """Count, mean and M2 of one part of a channel."""
    positions = a[slot.POSITIONS]
    partial, row = partial_at(a, number, group, channel), 8 * a[slot.CHANNELS]
    for i in range(3):
        store(partial + i * row, 0, 0.0, float64)
    start, stop = samples_of(a, group, number)
    seed, few, last = (start, 0), min(positions, LANES), SECOND
    if coded is not None:
        seed, few, last = _first_counted(a, start, stop, work), 1, COUNT
    around = work(0)
    if start < stop:  # sums lose few digits around what is near the mean
        at = (seed[0] * a[slot.CHANNELS] + channel) * positions + seed[1]
        for k in range(few):
            around += load(a[slot.X], at + k, like)
        around = around / work(few)
        if not math.isfinite(around):
            around = work(0)
    together = _together(positions)
    for sample in range(start, stop, together):
        samples = min(together, stop - sample)
        for begin in range(0, positions, MANY // ROWS):
            n = min(MANY // ROWS, positions - begin)
            _set(tables, AROUND, around, work)
            for table in range(FIRST, last + 1):
                _set(tables, table, work(0), work)
            _sum_planes(a, channel, sample, samples, begin, n, 0, tables, added, coded, like, work)
            count = float64(samples * n)
            if coded is not None:
                count = _total(tables, COUNT, work)
            first, second = _total(tables, FIRST, work), _total(tables, SECOND, work)
            merge_sums(a, partial, count, float64(around), first, second, None)
            if load(partial, 0, float64) > 0:
                around = work(load(partial + row, 0, float64))


@part
def _set_statistics(a, channel, group, tables, work):
    """Lay out what normalises a channel."""
    at, stride = group * a[slot.CHANNELS] + channel, a[slot.GROUPS] * a[slot.CHANNELS]
    _set(tables, MEAN, load(a[slot.STATISTICS], slot.MEAN * stride + at, work), work)
    _set(tables, SCALE, load(a[slot.STATISTICS], slot.SCALE * stride + at, work), work)
    _set(tables, SHIFT, load(a[slot.STATISTICS], slot.SHIFT * stride + at, work), work)


@part
def _apply(a, channel, group, number, tables, added, coded, like, work):
    """Normalise one part of a channel."""
    _set_statistics(a, channel, group, tables, work)
    start, stop = samples_of(a, group, number)
    _normalise_planes(
        a, channel, start, stop - start, 0, a[slot.POSITIONS], a[slot.Y], tables, added, coded, like, work
    )


@part
def _reduce(a, channel, group, number, tables, added, coded, like, work):
    """The two sums of the gradient over one part of a channel."""
    positions = a[slot.POSITIONS]
    _set_statistics(a, channel, group, tables, work)
    plain, moment = 0.0, 0.0
    start, stop = samples_of(a, group, number)
    together = _together(positions)
    for sample in range(start, stop, together):
        samples = min(together, stop - sample)
        for begin in range(0, positions, MANY // ROWS):
            n = min(MANY // ROWS, positions - begin)
            _set(tables, PLAIN, work(0), work)
            _set(tables, MOMENT, work(0), work)
            _sum_gradient_planes(a, channel, sample, samples, begin, n, 0, tables, added, coded, like, work)
            plain += _total(tables, PLAIN, work)
            moment += _total(tables, MOMENT, work)
    partial = partial_at(a, number, group, channel)
    store(partial, 0, plain, float64)
    store(partial + 8 * a[slot.CHANNELS], 0, moment, float64)


@part
def _differentiate(a, channel, group, number, tables, added, coded, like, work):
    """dx, and the residual's gradient, of one part of a channel."""
    _set_statistics(a, channel, group, tables, work)
    at, stride = group * a[slot.CHANNELS] + channel, a[slot.GROUPS] * a[slot.CHANNELS]
    _set(tables, OFFSET, load(a[slot.TERMS], slot.TERM_OFFSET * stride + at, work), work)
    _set(tables, SLOPE, load(a[slot.TERMS], slot.TERM_SLOPE * stride + at, work), work)
    start, stop = samples_of(a, group, number)
    _differentiate_planes(
        a, channel, start, stop - start, 0, a[slot.POSITIONS], a[slot.DX], tables, added, coded, like, work
    )


def _kernel(measure: Any, decide: Any, apply: Any) -> Any:
    """A kernel that runs the phases it is asked for: sums, decisions, and the batch again."""

    @part
    def run(a, f, added, coded, like, work):
        tables = stack_of_tables()
        phases, parts = a[slot.PHASES], a[slot.PARTS]
        # one whole channel after the other; or each phase for all channels, of which others have the other parts
        start, stop = share_of(a, a[slot.CHANNELS] * parts)
        for turn in range(stop - start if parts == 1 else 1):
            first, last = start + turn, start + turn + 1 if parts == 1 else stop
            if phases & MEASURE:
                for item in range(first, last):
                    for group in range(a[slot.GROUPS]):
                        measure(a, item // parts, group, item % parts, tables, added, coded, like, work)
            if phases & SETTLE:
                if parts > 1:
                    wait_for_others(a)
                for item in range(first, last):
                    if item % parts == 0:
                        decide(a, f, item // parts, None, work)
            if phases & APPLY:
                if parts > 1 and phases & SETTLE:
                    wait_for_others(a)
                for item in range(first, last):
                    for group in range(a[slot.GROUPS]):
                        apply(a, item // parts, group, item % parts, tables, added, coded, like, work)
        if a[slot.STREAM] != 0:
            fence()

    return run


forward = _kernel(_measure, settle_channel, _apply)
backward = _kernel(_reduce, settle_gradient, _differentiate)
