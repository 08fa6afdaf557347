"""Batches as a matrix whose columns are channels, or few positions of one: (batch, channels), channels last in
memory, and planes of few positions.

Columns are worked on side by side, up to `RUN` of them, over many rows. Short rows are taken `fold` at a time, as
one long row. Either a thread takes a strip of columns, measures it, decides, and reads it again while it is in its
cache; or the parts of all columns are some of the rows, and the phases run one after the other.
"""

from __future__ import annotations

from numpy import float64

from normsmith.ops.cpu import arguments as slot
from normsmith.ops.cpu import settle
from normsmith.ops.cpu.elements import (
    AROUND,
    COUNT,
    FIRST,
    MOMENT,
    OFFSET,
    PLAIN,
    SECOND,
    add_counted_gradient_sums,
    add_gradient_sums,
    add_sums,
    add_weighted_sums,
    differentiate,
    emit,
    fetch_rows,
    normalise,
    pre_gradient,
)
from normsmith.ops.cpu.lanes import (
    TABLE,
    fence,
    is_work,
    load,
    part,
    size_of,
    stack_of_run,
    stack_of_tables,
    store,
)
from normsmith.ops.cpu.settle import merge_sums, settle_channel, settle_gradient
from normsmith.ops.cpu.share import APPLY, MEASURE, SETTLE, share_of

CHUNK = 512
"""Rows whose sums are added up in the dtype of the work."""
NARROW = 64
"""Columns that are summed at a time; narrower rows are summed several side by side."""


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
    """Lay out the codes of the rows that `n` columns are, one per column."""
    length, positions = a[slot.CHANNELS], a[slot.POSITIONS]
    if positions > 1:
        for channel in range(n // positions):
            for k in range(positions):
                store(codes, channel * positions + k, load(a[slot.CODE], row * positions + k, work), work)
    else:
        width = min(n, length)
        for copy in range(n // width):
            code = load(a[slot.CODE], row + copy, work)
            for k in range(copy * width, (copy + 1) * width):
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
def _beside(a):
    """How many rows are summed side by side."""
    length = a[slot.CHANNELS]
    return 1 if a[slot.FOLD] == 1 or length >= NARROW else min(a[slot.FOLD], (NARROW + length - 1) // length)


@part
def _measure_rows(a, x, row, rows, beside, n, found, tables, codes, extras, like, work):
    """Add `rows` times `beside` rows, `n` columns in all, to the count, mean and M2 of their channels."""
    positions, length = a[slot.POSITIONS], a[slot.CHANNELS] * a[slot.POSITIONS]
    stride = length * beside * size_of(like)
    channels = n // positions if positions > 1 else min(n, length)
    masked, seed = False, 0
    if extras is not None:
        masked = a[slot.CODE] != 0
        if masked and load(found, 0, float64) == 0:
            for i in range(rows * beside * positions):
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
                    _spread_code(a, row + (begin + r) * beside, n, codes, work)
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
    length, size, beside = a[slot.CHANNELS] * a[slot.POSITIONS], size_of(like), _beside(a)
    _, first, last = _rows_of(a, group, number)
    start = strip * a[slot.STRIP]
    n = min(a[slot.STRIP] // a[slot.FOLD], length - start)
    found = _part_of(a, strip, group, number)
    for i in range(3 * (n // a[slot.POSITIONS])):
        store(found, i, 0.0, float64)
    row, step = first, beside
    while row < last:  # at first `beside` rows at a time, then what is left of them
        if last - row < step:
            step = 1
        rows, x = (last - row) // step, a[slot.X] + (row * length + start) * size
        _measure_rows(a, x, row, rows, step, n * step, found, tables, codes, extras, like, work)
        row += rows * step


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
    for table in range(3):
        number = (settle.MEAN, settle.SCALE, settle.SHIFT)[table]
        _tabulate(a, a[slot.STATISTICS], number, group, start, n, tables, table * TABLE, work)


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
    """Normalise one part of a strip."""
    length, fold, size = a[slot.CHANNELS] * a[slot.POSITIONS], a[slot.FOLD], size_of(like)
    group_first, first, last = _rows_of(a, group, number)
    start, n, rows, rest = _extent(a, strip, last - first)
    _tabulate_statistics(a, group, start, n, tables, work)
    lines = rows + (1 if rest > 0 else 0)
    for line in range(lines):
        width, row = n if line < rows else rest, first + line * fold
        at = (row * length + start) * size
        if line + 1 < rows:
            fetch_rows(a[slot.X] + at + fold * length * size, 0, 1, n * size)
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
    relu, plain = a[slot.RELU] != 0, is_work(like, work) and a[slot.RELU] == 0 and a[slot.CODE] == 0
    summed = n if fold == 1 else length * _beside(a)
    lines, chunk = rows + (1 if rest > 0 else 0), CHUNK
    if fold > 1:
        chunk = max(1, CHUNK * _beside(a) // fold)
    for begin in range(0, lines, chunk):
        for k in range(summed):
            store(tables, PLAIN + k, work(0), work)
            store(tables, MOMENT + k, work(0), work)
        end, line = min(begin + chunk, lines), begin
        while line < end:
            # rows that need nothing done are summed where they lie, many at a time
            together = min(end, rows) - line if plain and line < rows else 1
            width, row = n if line < rows else rest, first + line * fold
            at = (row * length + start) * size
            x, g = a[slot.X] + at, a[slot.G] + at
            stride_x, stride_g, number_of = length * size, length * size, together
            code = 0
            if not plain:
                bits = 0
                if extras is not None:
                    code, bits = _extras_of(a, strip, group, group_first, row, width, codes, work)
                g = pre_gradient(g, x, code, bits, width, tables, relu, gradient, extras, like, work)
            if fold > 1:
                stride_x, stride_g = summed * size, summed * size_of(work)
                number_of = width * together // summed
            masked = False
            if extras is not None:
                if code != 0:
                    masked = True
                    for k in range(0, width, summed):
                        wide = min(summed, width - k)
                        add_counted_gradient_sums(
                            g + k * size_of(work),
                            x + k * size,
                            code + k * size_of(work),
                            wide,
                            tables,
                            like,
                            work,
                        )
            if not masked:
                add_gradient_sums(g, stride_g, x, stride_x, number_of, min(width, summed), tables, like, work)
                left = width * together - number_of * summed
                if fold > 1 and left > 0:
                    at = number_of * summed
                    add_gradient_sums(
                        g + at * size_of(work), 0, x + at * size, 0, 1, left, tables, like, work
                    )
            line += together
        _collect(a, summed, PLAIN, tables, work)
        _collect(a, summed, MOMENT, tables, work)
        for channel in range(channels):
            plain_sum, moment = load(tables, PLAIN + channel, work), load(tables, MOMENT + channel, work)
            store(found, 3 * channel, load(found, 3 * channel, float64) + plain_sum, float64)
            store(found, 3 * channel + 1, load(found, 3 * channel + 1, float64) + moment, float64)


@part
def _differentiate(a, strip, group, number, tables, codes, gradient, buffer, spare, extras, like, work):
    """dx, and the residual's gradient, of one part of a strip."""
    length, fold, size = a[slot.CHANNELS] * a[slot.POSITIONS], a[slot.FOLD], size_of(like)
    group_first, first, last = _rows_of(a, group, number)
    start, n, rows, rest = _extent(a, strip, last - first)
    _tabulate_statistics(a, group, start, n, tables, work)
    for row in range(2):
        _tabulate(a, a[slot.TERMS], row, group, start, n, tables, (OFFSET + row) * TABLE, work)
    streams, lines = a[slot.STREAM] != 0, rows + (1 if rest > 0 else 0)
    for line in range(lines):
        width, row = n if line < rows else rest, first + line * fold
        at = (row * length + start) * size
        if line + 1 < rows:
            fetch_rows(a[slot.X] + at + fold * length * size, 0, 1, n * size)
            fetch_rows(a[slot.G] + at + fold * length * size, 0, 1, n * size)
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
