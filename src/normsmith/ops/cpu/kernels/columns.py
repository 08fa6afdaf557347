"""Batches as a matrix whose columns are channels, or the few positions of channels.

That is (batch, channels), channels last in memory, and planes of few positions. Columns are worked on side by side,
up to `RUN` of them, over many lines. Short rows are taken `fold` at a time, as one line. Either a thread takes a strip
of columns, measures it, decides, and reads it again while it is in its cache; or each thread takes some of the rows of
all columns, and waits for the others between the phases. What is read again is read backwards: the cache holds the end.
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
    SHIFTS,
    operations,
    stack_of_tables,
)
from normsmith.ops.cpu.kernels.lanes import (
    copy,
    fence,
    fill,
    load,
    load_some,
    size_of,
    some,
    stack,
    store,
    store_some,
)
from normsmith.ops.cpu.kernels.settle import merge_sums, partial_at, settle_channel, settle_gradient
from normsmith.ops.cpu.kernels.sharing import share_of, wait_for_others
from normsmith.ops.cpu.kernels.translate import part
from normsmith.ops.cpu.kernels.vectors import ROWS, TABLE, Operation

CHUNK = 512
"""Lines whose sums are added up in the dtype of the work."""
FEW = 8
"""Rows whose mean is subtracted before the first sums."""
_stack_of_codes = stack(ROWS * TABLE * 8)


@part
def _lines_of(a, strip, group, number):
    """Where one part of a ghost batch lies, which is cut where lines end, and where a strip lies.

    First row of the group, first row of the part, its full lines, and the rows of a last line that is not full; first
    column of the strip, and its columns in a full line.
    """
    per_sample, fold, parts = a[slot.ROWS], a[slot.FOLD], a[slot.PARTS]
    first, last = group * a[slot.GROUP_SIZE] * per_sample, a[slot.SAMPLES] * per_sample
    if group + 1 < a[slot.GROUPS]:
        last = first + a[slot.GROUP_SIZE] * per_sample
    lines = (last - first + fold - 1) // fold
    start, stop = (
        first + lines * number // parts * fold,
        min(first + lines * (number + 1) // parts * fold, last),
    )
    column = strip * a[slot.STRIP]
    columns = min(a[slot.STRIP], a[slot.CHANNELS] * a[slot.POSITIONS] * fold - column)
    return first, start, (stop - start) // fold, (stop - start) % fold, column, columns


@part
def _spread_codes(a, row, n, codes, work):
    """Lay out the codes of the rows that `n` columns are, one per column."""
    length, positions, size = a[slot.CHANNELS], a[slot.POSITIONS], size_of(work)
    if positions > 1:
        for k in range(0, n, positions):
            copy(codes + k * size, a[slot.CODE] + row * positions * size, positions * size)
    else:
        for k in range(0, n, length):
            fill(codes + k * size, min(length, n - k), load(a[slot.CODE], row + k // length, work), work)


@part
def _spread(a, source, n, tables, table, work):
    """Lay out numbers that stand at an address channel by channel, one per column."""
    positions, length, size = a[slot.POSITIONS], a[slot.CHANNELS], size_of(work)
    at = tables + table * TABLE * size
    if positions > 1:
        for k in range(0, n, positions):
            fill(at + k * size, positions, load(source, k // positions, work), work)
    else:
        for k in range(0, n, length):
            copy(at + k * size, source, min(length, n - k) * size)


@part
def _tabulate(a, source, number, group, column, n, tables, table, work):
    """Lay out a row of statistics or terms, one number per column."""
    first = (number * a[slot.GROUPS] + group) * a[slot.CHANNELS] + column // a[slot.POSITIONS]
    _spread(a, source + first * size_of(work), n, tables, table, work)


@part
def _collect(a, n, table, tables, work):
    """Sum a table over the columns of each channel; the sums then stand first."""
    length, positions, at = a[slot.CHANNELS], a[slot.POSITIONS], table * TABLE
    if positions > 1:
        for channel in range(n // positions):
            total = work(0)
            for k in range(channel * positions, (channel + 1) * positions):
                total += load(tables, at + k, work)
            store(tables, at + channel, total, work)
    else:
        for other in range(length, n, length):
            for k in range(min(length, n - other)):
                value = load(tables, at + k, work) + load(tables, at + other + k, work)
                store(tables, at + k, value, work)


def _over_lines(operation: Operation, backwards: bool) -> Any:
    """Do an operation on lines of a part, four at a time where they are whole."""
    on_four, on_four_of_any_length, on_one, on_four_by_row, on_one_by_row = operation

    def over(a, strip, group, number, begin, end, tables, codes, added, coded, like, work):
        length, fold, size = a[slot.CHANNELS] * a[slot.POSITIONS], a[slot.FOLD], size_of(like)
        group_first, first, full, rest, column, columns = _lines_of(a, strip, group, number)
        stride, per_line = fold * length * size, (a[slot.STRIP] + LANES - 1) // LANES * 2
        fours = (min(end, full) - begin) // ROWS
        items = fours + end - begin - fours * ROWS
        ahead, positions, wide = (
            -ROWS * stride if backwards else ROWS * stride,
            a[slot.POSITIONS],
            size_of(work),
        )
        between, sums = TABLE * wide, not backwards
        for step in range(items):
            item = items - 1 - step if backwards else step
            line, together = begin + item * ROWS, ROWS
            if item >= fours:
                line, together = begin + item + fours * (ROWS - 1), 1
            n, row = columns if line < full else rest * length, first + line * fold
            at, code, bits = (row * length + column) * size, 0, 0
            if added is not None:
                if a[slot.BITS] != 0:
                    before = (strip * a[slot.GROUPS] + group) * a[slot.BIT_LINES]
                    bits = a[slot.BITS] + (before + (row - group_first) // fold) * per_line
            done = 0
            if coded is not None:
                if positions == 1 and length % LANES == 0 and length > LANES:
                    for k in range(0, n, length):  # the rows of a line, each of which has one code
                        where, code = at + k * size, a[slot.CODE] + (row + k // length) * wide
                        kept, table = bits + k // 8 if bits != 0 else 0, tables + k * wide
                        if together == ROWS:
                            on_four_by_row(
                                a[slot.SELF], where, stride, min(length, n), code, fold * wide, kept, per_line,
                                ahead, table, added, coded, like, work,
                            )  # fmt: skip
                        else:
                            on_one_by_row(
                                a[slot.SELF], where, 0, min(length, n), code, 0, kept, 0, ahead, table, added,
                                coded, like, work,
                            )  # fmt: skip
                    done = n
                elif positions > 1 and together == ROWS and sums and bits == 0:
                    # channels, which have the codes of the whole row; short pieces are slow to write
                    for k in range(0, n, positions):
                        on_four_of_any_length(
                            a[slot.SELF], at + k * size, stride, positions, a[slot.CODE] + row * positions * wide,
                            positions * wide, 0, 0, ahead, tables + k * wide, added, coded, like, work,
                        )  # fmt: skip
                    done = n
                else:
                    code = codes
                    for r in range(together):
                        _spread_codes(a, row + r * fold, n, codes + r * between, work)
            whole = n - n % LANES if together == ROWS else 0
            if done < n:
                on_four(
                    a[slot.SELF], at, stride, whole, code, between, bits, per_line, ahead, tables, added, coded,
                    like, work,
                )  # fmt: skip
                for r in range(together if whole < n else 0):
                    on_one(
                        a[slot.SELF], at + r * stride + whole * size, 0, n - whole,
                        code + r * between + whole * wide if code != 0 else 0, 0,
                        bits + r * per_line + whole // 8 if bits != 0 else 0, 0, ahead,
                        tables + whole * wide, added, coded, like, work,
                    )  # fmt: skip

    return part(over)


_sum_lines, _normalise_lines, _sum_gradient_lines, _differentiate_lines = (
    _over_lines(operation, backwards)
    for operation, backwards in zip(
        operations(by_column=True).values(), (False, True, False, True), strict=True
    )
)


@part
def _first_counted(a, row, last, work):
    """The number, after those of the first row, of the first position of a part that is not padding."""
    positions = a[slot.POSITIONS]
    for i in range(row * positions, last * positions):
        if load(a[slot.CODE], i, work) > 0:
            return i - row * positions
    return 0


@part
def _about(a, at, rows, positions, n, like, work):
    """The mean of the first elements of channels, 0 where it is not finite."""
    total = some(work(0), n)
    for row in range(rows):
        for k in range(positions):
            total += load_some(a[slot.X], at + row * a[slot.CHANNELS] * a[slot.POSITIONS] + k, n, like)
    mean = total / work(rows * positions)
    return mean if math.isfinite(mean) else work(0)


@part
def _measure(a, strip, group, number, tables, codes, added, coded, like, work):
    """Count, mean and M2 of one part of a strip."""
    positions, length = a[slot.POSITIONS], a[slot.CHANNELS] * a[slot.POSITIONS]
    _, first, full, rest, column, columns = _lines_of(a, strip, group, number)
    channels, row = min(columns, length) // positions, 8 * a[slot.CHANNELS]
    partial = partial_at(a, number, group, column // positions)
    seed, last = first * length + column, SECOND
    # sums lose few digits around what is near the mean
    rows_about = min(full * a[slot.FOLD] + rest, FEW) if positions == 1 else 1
    positions_about = positions
    if coded is not None:
        rows_about, positions_about, last = 1, 1, COUNT
        i = _first_counted(a, first, first + full * a[slot.FOLD] + rest, work)
        seed += i // positions * length + i % positions
    for i in range(3):
        for channel in range(channels):
            store(partial + i * row, channel, 0.0, float64)
    shifts = tables + SHIFTS * TABLE * size_of(work)
    lines = full + (1 if rest > 0 else 0)
    for begin in range(0, lines, CHUNK):
        end, n = min(begin + CHUNK, lines), columns if full > begin else rest * length
        if load(partial, 0, float64) > 0:
            for channel in range(0, channels, LANES):
                several = min(LANES, channels - channel)
                means = load_some(partial + row, channel, several, float64)
                store_some(shifts, channel, work(means), several, work)
        elif positions == 1:
            for channel in range(0, channels, LANES):
                several = min(LANES, channels - channel)
                about = _about(a, seed + channel, rows_about, 1, several, like, work)
                store_some(shifts, channel, about, several, work)
        else:
            for channel in range(channels):
                at = seed + channel * positions
                store(shifts, channel, _about(a, at, rows_about, positions_about, None, like, work), work)
        _spread(a, shifts, n, tables, AROUND, work)
        for table in range(FIRST, last + 1):
            fill(tables + table * TABLE * size_of(work), n, work(0), work)
        _sum_lines(a, strip, group, number, begin, end, tables, codes, added, coded, like, work)
        for table in range(FIRST, last + 1):
            _collect(a, n, table, tables, work)
        count = float64(((min(end, full) - begin) * a[slot.FOLD] + (rest if end > full else 0)) * positions)
        if coded is not None:
            count = float64(load(tables, COUNT * TABLE, work))
        for channel in range(0, channels, LANES):
            several = min(LANES, channels - channel)
            merge_sums(
                a,
                partial + 8 * channel,
                count,
                float64(load_some(shifts, channel, several, work)),
                float64(load_some(tables, FIRST * TABLE + channel, several, work)),
                float64(load_some(tables, SECOND * TABLE + channel, several, work)),
                several,
            )


@part
def _tabulate_statistics(a, group, column, n, tables, work):
    """Lay out what normalises, one number per column."""
    statistics = a[slot.STATISTICS]
    _tabulate(a, statistics, slot.MEAN, group, column, n, tables, MEAN, work)
    _tabulate(a, statistics, slot.SCALE, group, column, n, tables, SCALE, work)
    _tabulate(a, statistics, slot.SHIFT, group, column, n, tables, SHIFT, work)


@part
def _apply(a, strip, group, number, tables, codes, added, coded, like, work):
    """Normalise one part of a strip."""
    _, _, full, rest, column, columns = _lines_of(a, strip, group, number)
    _tabulate_statistics(a, group, column, columns, tables, work)
    lines = full + (1 if rest > 0 else 0)
    _normalise_lines(a, strip, group, number, 0, lines, tables, codes, added, coded, like, work)


@part
def _reduce(a, strip, group, number, tables, codes, added, coded, like, work):
    """The two sums of the gradient over one part of a strip."""
    positions, length = a[slot.POSITIONS], a[slot.CHANNELS] * a[slot.POSITIONS]
    _, _, full, rest, column, columns = _lines_of(a, strip, group, number)
    channels, row = min(columns, length) // positions, 8 * a[slot.CHANNELS]
    partial = partial_at(a, number, group, column // positions)
    for i in range(3):
        for channel in range(channels):
            store(partial + i * row, channel, 0.0, float64)
    _tabulate_statistics(a, group, column, columns, tables, work)
    lines = full + (1 if rest > 0 else 0)
    for begin in range(0, lines, CHUNK):
        n = columns if full > begin else rest * length
        for table in range(PLAIN, MOMENT + 1):
            fill(tables + table * TABLE * size_of(work), n, work(0), work)
        _sum_gradient_lines(
            a, strip, group, number, begin, min(begin + CHUNK, lines), tables, codes, added, coded, like, work
        )
        for table in range(PLAIN, MOMENT + 1):
            _collect(a, n, table, tables, work)
            for channel in range(0, channels, LANES):
                at, several = partial + (table - PLAIN) * row + 8 * channel, min(LANES, channels - channel)
                value = float64(load_some(tables, table * TABLE + channel, several, work))
                store_some(at, 0, load_some(at, 0, several, float64) + value, several, float64)


@part
def _differentiate(a, strip, group, number, tables, codes, added, coded, like, work):
    """dx, and the residual's gradient, of one part of a strip."""
    _, _, full, rest, column, columns = _lines_of(a, strip, group, number)
    _tabulate_statistics(a, group, column, columns, tables, work)
    for row in range(2):
        _tabulate(a, a[slot.TERMS], row, group, column, columns, tables, OFFSET + row, work)
    lines = full + (1 if rest > 0 else 0)
    _differentiate_lines(a, strip, group, number, 0, lines, tables, codes, added, coded, like, work)


def _kernel(measure: Any, decide: Any, apply: Any) -> Any:
    """A kernel that runs the phases it is asked for: sums, decisions, and the batch again."""

    @part
    def run(a, f, added, coded, like, work):
        tables, codes = stack_of_tables(), _stack_of_codes()
        phases, strips, groups = a[slot.PHASES], a[slot.STRIPS], a[slot.GROUPS]
        by_rows = a[slot.BY_ROWS] != 0
        # by rows: a thread has parts of all strips, and decides on some channels; else it has whole strips
        start, stop = share_of(a, a[slot.PARTS] if by_rows else strips)
        low, high = share_of(a, (a[slot.CHANNELS] + LANES - 1) // LANES)
        low, high = low * LANES, min(high * LANES, a[slot.CHANNELS])
        for block in range(1 if by_rows else stop - start):
            items = strips * groups * (stop - start) if by_rows else groups
            if phases & MEASURE:
                for item in range(items):
                    strip = item // groups % strips if by_rows else start + block
                    number = start + item // (groups * strips) if by_rows else 0
                    measure(a, strip, item % groups, number, tables, codes, added, coded, like, work)
            if phases & SETTLE:
                if by_rows:
                    wait_for_others(a)
                else:
                    low = (start + block) * a[slot.STRIP] // a[slot.POSITIONS]
                    high = min(low + a[slot.STRIP] // a[slot.POSITIONS], a[slot.CHANNELS])
                for channel in range(low, high, LANES):
                    decide(a, f, channel, min(LANES, high - channel), work)
            if phases & APPLY:
                if by_rows and phases & SETTLE:
                    wait_for_others(a)
                for item in range(items):
                    strip = item // groups % strips if by_rows else start + block
                    number = start + item // (groups * strips) if by_rows else 0
                    apply(a, strip, item % groups, number, tables, codes, added, coded, like, work)
        if a[slot.STREAM] != 0:
            fence()

    return run


forward = _kernel(_measure, settle_channel, _apply)
backward = _kernel(_reduce, settle_gradient, _differentiate)
