"""Batches as a matrix whose columns are channels, or few positions of one: (batch, channels), channels last in
memory, and planes of few positions.

Columns are worked on side by side, up to `RUN` of them, over many rows. A short row is laid `fold` times beside
itself, so that rows are as long as that. Either a thread takes a strip of columns, measures it, decides, and reads
it again while it is in its cache; or the parts of all columns are some of the rows, and the phases run one after
the other, the second sweep backwards, where the first one ended.
"""

from __future__ import annotations

from numpy import float64

from normsmith.ops.cpu import arguments as slot
from normsmith.ops.cpu import settle
from normsmith.ops.cpu.elements import (
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
    add_gradient_sums,
    add_sums,
    add_weighted_sums,
    differentiate,
    emit,
    normalise,
    pre_gradient,
)
from normsmith.ops.cpu.lanes import (
    TABLE,
    fence,
    load,
    part,
    size_of,
    stack_of_run,
    stack_of_tables,
    store,
)
from normsmith.ops.cpu.settle import merge_sums, settle_channel, settle_gradient
from normsmith.ops.cpu.share import APPLY, MEASURE, SETTLE, share_of

CHUNK = 256
"""Rows whose sums are added up in the dtype of the work."""


@part
def _rows_of(a, group, number):
    """First row of a ghost batch; first and last + 1 of the rows of one of its parts, cut where folds end."""
    per_sample, fold, parts = a[slot.ROWS], a[slot.FOLD], a[slot.PARTS]
    first, last = group * a[slot.GROUP_SIZE] * per_sample, a[slot.SAMPLES] * per_sample
    if group + 1 < a[slot.GROUPS]:
        last = first + a[slot.GROUP_SIZE] * per_sample
    lines = (last - first + fold - 1) // fold
    start, stop = lines * number // parts * fold, lines * (number + 1) // parts * fold
    return first, first + start, min(first + stop, last)


@part
def _extent(a, strip, rows):
    """First column of a strip, its columns with their repetitions, its full rows, and what is left of a last one."""
    length, fold = a[slot.CHANNELS] * a[slot.POSITIONS], a[slot.FOLD]
    start = strip * a[slot.STRIP]
    return start, min(a[slot.STRIP], length * fold - start), rows // fold, (rows % fold) * length


@part
def _spread_code(a, row, n, codes, work):
    """Lay out the codes of a row, one per column."""
    length = a[slot.CHANNELS]
    if a[slot.POSITIONS] > 1:
        for k in range(n):
            store(codes, k, load(a[slot.CODE], row * a[slot.POSITIONS] + k % a[slot.POSITIONS], work), work)
    elif a[slot.FOLD] > 1:
        for copy in range(n // length):
            code = load(a[slot.CODE], row + copy, work)
            for k in range(copy * length, (copy + 1) * length):
                store(codes, k, code, work)
    else:
        code = load(a[slot.CODE], row, work)
        for k in range(n):
            store(codes, k, code, work)


@part
def _collect(a, n, table, tables, work):
    """Sum a table over the columns of each channel; the sums then stand first."""
    length, positions = a[slot.CHANNELS], a[slot.POSITIONS]
    if positions > 1:
        for channel in range(n // positions):
            total = work(0)
            for k in range(channel * positions, (channel + 1) * positions):
                total += load(tables, table + k, work)
            store(tables, table + channel, total, work)
    else:
        for copy in range(1, n // length):
            for k in range(length):
                value = load(tables, table + k, work) + load(tables, table + copy * length + k, work)
                store(tables, table + k, value, work)


@part
def _measure_rows(a, x, row, rows, n, found, tables, codes, extras, like, work):
    """Add rows of `n` columns to the count, mean and M2 of their channels."""
    positions, length = a[slot.POSITIONS], a[slot.CHANNELS] * a[slot.POSITIONS]
    stride = length * a[slot.FOLD] * size_of(like)
    channels = n // positions if positions > 1 else min(n, length)
    masked, seed = False, 0
    if extras is not None:
        masked = a[slot.CODE] != 0
        if masked and load(found, 0, float64) == 0:
            for i in range(rows * a[slot.FOLD] * positions):
                if load(a[slot.CODE], row * positions + i, work) > 0:
                    seed = i // positions * length + i % positions
                    break
    for begin in range(0, rows, CHUNK):
        some = min(CHUNK, rows - begin)
        at = x + begin * stride
        for channel in range(channels):
            shift = work(load(found, 3 * channel + 1, float64))
            if load(found, 3 * channel, float64) == 0:
                shift = load(x, seed + channel * positions, like)
            stop, step = ((channel + 1) * positions, 1) if positions > 1 else (n, length)
            for k in range(channel * positions, stop, step):
                store(tables, AROUND + k, shift, work)
        for k in range(n):
            store(tables, FIRST + k, work(0), work)
            store(tables, SECOND + k, work(0), work)
        if extras is not None:
            if masked:
                for k in range(n):
                    store(tables, COUNT + k, work(0), work)
                for r in range(some):
                    _spread_code(a, row + (begin + r) * a[slot.FOLD], n, codes, work)
                    add_weighted_sums(at + r * stride, codes, n, tables, like, work)
                _collect(a, n, COUNT, tables, work)
        if not masked:
            add_sums(at, stride, some, n, tables, like, work)
        _collect(a, n, FIRST, tables, work)
        _collect(a, n, SECOND, tables, work)
        for channel in range(channels):
            count = float64(some * (n // channels))
            if masked:
                count = float64(load(tables, COUNT + channel, work))
            merge_sums(
                found + 24 * channel,
                count,
                float64(load(tables, AROUND + channel * positions, work)),
                float64(load(tables, FIRST + channel, work)),
                float64(load(tables, SECOND + channel, work)),
            )


@part
def _part_of(a, strip, group, number):
    """Where the partial sums of the first channel of a strip stand."""
    channel = strip * a[slot.STRIP] // a[slot.POSITIONS] if a[slot.FOLD] == 1 else 0
    return a[slot.PARTIAL] + 24 * ((number * a[slot.GROUPS] + group) * a[slot.CHANNELS] + channel)


@part
def _measure(a, strip, group, number, tables, codes, extras, like, work):
    """Count, mean and M2 of one part of a strip."""
    length, size = a[slot.CHANNELS] * a[slot.POSITIONS], size_of(like)
    _, first, last = _rows_of(a, group, number)
    start, n, rows, rest = _extent(a, strip, last - first)
    found = _part_of(a, strip, group, number)
    for i in range(3 * (n // a[slot.POSITIONS] if a[slot.FOLD] == 1 else length)):
        store(found, i, 0.0, float64)
    x = a[slot.X] + (first * length + start) * size
    _measure_rows(a, x, first, rows, n, found, tables, codes, extras, like, work)
    if rest > 0:
        row = first + rows * a[slot.FOLD]
        x = a[slot.X] + row * length * size
        _measure_rows(a, x, row, 1, rest, found, tables, codes, extras, like, work)


@part
def _tabulate(a, source, number, group, start, n, tables, table, work):
    """Lay out a row of statistics or terms, one number per column."""
    positions, length = a[slot.POSITIONS], a[slot.CHANNELS]
    base = (number * a[slot.GROUPS] + group) * length + start // positions
    if positions > 1:
        for channel in range(n // positions):
            value = load(source, base + channel, work)
            for k in range(channel * positions, (channel + 1) * positions):
                store(tables, table + k, value, work)
    else:
        for k in range(min(n, length)):
            store(tables, table + k, load(source, base + k, work), work)
        for k in range(length, n):
            store(tables, table + k, load(tables, table + k - length, work), work)


@part
def _tabulate_statistics(a, group, start, n, tables, work):
    _tabulate(a, a[slot.STATISTICS], settle.MEAN, group, start, n, tables, MEAN * TABLE, work)
    _tabulate(a, a[slot.STATISTICS], settle.SCALE, group, start, n, tables, SCALE * TABLE, work)
    _tabulate(a, a[slot.STATISTICS], settle.SHIFT, group, start, n, tables, SHIFT * TABLE, work)


@part
def _extras_of(a, strip, group, group_first, row, n, codes, work):
    """Codes and bits of a row of a strip, or 0."""
    code, bits = 0, 0
    if a[slot.CODE] != 0:
        code = codes
        _spread_code(a, row, n, codes, work)
    if a[slot.BITS] != 0:
        line = (strip * a[slot.GROUPS] + group) * a[slot.BIT_LINES] + (row - group_first) // a[slot.FOLD]
        bits = a[slot.BITS] + line * ((a[slot.STRIP] + 15) // 16) * 2
    return code, bits


@part
def _apply(a, strip, group, number, tables, codes, buffer, spare, extras, like, work):
    """Normalise one part of a strip, from its end."""
    length, fold, size = a[slot.CHANNELS] * a[slot.POSITIONS], a[slot.FOLD], size_of(like)
    group_first, first, last = _rows_of(a, group, number)
    start, n, rows, rest = _extent(a, strip, last - first)
    _tabulate_statistics(a, group, start, n, tables, work)
    lines = rows + (1 if rest > 0 else 0)
    for back in range(lines):
        line = lines - 1 - back
        width, row = n if line < rows else rest, first + line * fold
        at = (row * length + start) * size
        code, bits, residual = 0, 0, 0
        if extras is not None:
            code, bits = _extras_of(a, strip, group, group_first, row, width, codes, work)
            residual = a[slot.RESIDUAL] + at if a[slot.RESIDUAL] != 0 else 0
        normalise(
            a[slot.X] + at, a[slot.Y] + at, residual, code, bits, width, tables,
            a[slot.RELU] != 0, a[slot.STREAM] != 0, buffer, spare, extras, like, work,
        )  # fmt: skip


@part
def forward(a, f, extras, like, work):
    """Moments, decision and output, as the phases ask."""
    tables, codes, buffer, spare = stack_of_tables(), stack_of_run(), stack_of_run(), stack_of_run()
    phases, parts, strips, groups = a[slot.PHASES], a[slot.PARTS], a[slot.STRIPS], a[slot.GROUPS]
    by_rows = a[slot.BY_ROWS] != 0
    start, stop = share_of(a, parts if by_rows else strips)
    # by rows: all strips of a part, the phases one after the other; else: strip by strip
    outer, inner = (1, strips * (stop - start)) if by_rows else (stop - start, 1)
    for block in range(outer):
        if phases & MEASURE:
            for item in range(inner * groups):
                strip, number = item // groups % strips, start + item // (groups * strips)
                if not by_rows:
                    strip, number = start + block, 0
                _measure(a, strip, item % groups, number, tables, codes, extras, like, work)
        if phases & SETTLE:
            low, high = start + block, start + block + 1
            channel, last = (
                low * a[slot.STRIP] // a[slot.POSITIONS],
                high * a[slot.STRIP] // a[slot.POSITIONS],
            )
            if by_rows:
                channel, last = share_of(a, a[slot.CHANNELS])
            for c in range(channel, min(last, a[slot.CHANNELS])):
                settle_channel(a, f, c, work)
        if phases & APPLY:
            for item in range(inner * groups):
                strip, number = item // groups % strips, start + item // (groups * strips)
                if not by_rows:
                    strip, number = start + block, 0
                _apply(a, strip, item % groups, number, tables, codes, buffer, spare, extras, like, work)
    if a[slot.STREAM] != 0:
        fence()


@part
def _reduce(a, strip, group, number, tables, codes, gradient, extras, like, work):
    """The two sums of the gradient over one part of a strip."""
    length, fold, size = a[slot.CHANNELS] * a[slot.POSITIONS], a[slot.FOLD], size_of(like)
    group_first, first, last = _rows_of(a, group, number)
    start, n, rows, rest = _extent(a, strip, last - first)
    found = _part_of(a, strip, group, number)
    channels = n // a[slot.POSITIONS] if fold == 1 else length
    for i in range(3 * channels):
        store(found, i, 0.0, float64)
    _tabulate_statistics(a, group, start, n, tables, work)
    lines = rows + (1 if rest > 0 else 0)
    for begin in range(0, lines, CHUNK):
        for k in range(n):
            store(tables, PLAIN + k, work(0), work)
            store(tables, MOMENT + k, work(0), work)
        for line in range(begin, min(begin + CHUNK, lines)):
            width, row = n if line < rows else rest, first + line * fold
            at = (row * length + start) * size
            code, bits = 0, 0
            if extras is not None:
                code, bits = _extras_of(a, strip, group, group_first, row, width, codes, work)
            x = a[slot.X] + at
            g = pre_gradient(
                a[slot.G] + at, x, code, bits, width, tables, a[slot.RELU] != 0, gradient, extras, like, work
            )
            add_gradient_sums(g, x, code, width, tables, extras, like, work)
        _collect(a, n, PLAIN, tables, work)
        _collect(a, n, MOMENT, tables, work)
        for channel in range(channels):
            plain, moment = load(tables, PLAIN + channel, work), load(tables, MOMENT + channel, work)
            store(found, 3 * channel, load(found, 3 * channel, float64) + plain, float64)
            store(found, 3 * channel + 1, load(found, 3 * channel + 1, float64) + moment, float64)


@part
def _differentiate(a, strip, group, number, tables, codes, gradient, buffer, spare, extras, like, work):
    """dx, and the residual's gradient, of one part of a strip, from its end."""
    length, fold, size = a[slot.CHANNELS] * a[slot.POSITIONS], a[slot.FOLD], size_of(like)
    group_first, first, last = _rows_of(a, group, number)
    start, n, rows, rest = _extent(a, strip, last - first)
    _tabulate_statistics(a, group, start, n, tables, work)
    _tabulate(a, a[slot.TERMS], settle.OFFSET, group, start, n, tables, OFFSET * TABLE, work)
    _tabulate(a, a[slot.TERMS], settle.SLOPE, group, start, n, tables, SLOPE * TABLE, work)
    streams, lines = a[slot.STREAM] != 0, rows + (1 if rest > 0 else 0)
    for back in range(lines):
        line = lines - 1 - back
        width, row = n if line < rows else rest, first + line * fold
        at = (row * length + start) * size
        code, bits = 0, 0
        if extras is not None:
            code, bits = _extras_of(a, strip, group, group_first, row, width, codes, work)
        x = a[slot.X] + at
        g = pre_gradient(
            a[slot.G] + at, x, code, bits, width, tables, a[slot.RELU] != 0, gradient, extras, like, work
        )
        differentiate(g, x, a[slot.DX] + at, code, width, tables, streams, buffer, spare, extras, like, work)
        if extras is not None:
            if a[slot.DRESIDUAL] != 0:
                emit(g, a[slot.DRESIDUAL] + at, spare, width, streams, like, work)


@part
def backward(a, extras, like, work):
    """The sums of the gradient, what follows from them, and dx, as the phases ask."""
    tables, codes, gradient = stack_of_tables(), stack_of_run(), stack_of_run()
    buffer, spare = stack_of_run(), stack_of_run()
    phases, parts, strips, groups = a[slot.PHASES], a[slot.PARTS], a[slot.STRIPS], a[slot.GROUPS]
    by_rows = a[slot.BY_ROWS] != 0
    start, stop = share_of(a, parts if by_rows else strips)
    outer, inner = (1, strips * (stop - start)) if by_rows else (stop - start, 1)
    for block in range(outer):
        if phases & MEASURE:
            for item in range(inner * groups):
                strip, number = item // groups % strips, start + item // (groups * strips)
                if not by_rows:
                    strip, number = start + block, 0
                _reduce(a, strip, item % groups, number, tables, codes, gradient, extras, like, work)
        if phases & SETTLE:
            low, high = start + block, start + block + 1
            channel, last = (
                low * a[slot.STRIP] // a[slot.POSITIONS],
                high * a[slot.STRIP] // a[slot.POSITIONS],
            )
            if by_rows:
                channel, last = share_of(a, a[slot.CHANNELS])
            for c in range(channel, min(last, a[slot.CHANNELS])):
                settle_gradient(a, c, work)
        if phases & APPLY:
            for item in range(inner * groups):
                strip, number = item // groups % strips, start + item // (groups * strips)
                if not by_rows:
                    strip, number = start + block, 0
                _differentiate(
                    a,
                    strip,
                    item % groups,
                    number,
                    tables,
                    codes,
                    gradient,
                    buffer,
                    spare,
                    extras,
                    like,
                    work,
                )
    if a[slot.STREAM] != 0:
        fence()
