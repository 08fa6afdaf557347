"""What is done to a run of elements that fits the first cache, one step after the other.

Coefficients are numbers, one for all elements, or tables, one number per element of the run. Tables lie side by
side at one address, those of sums too: a loop that knows few addresses is vectorised. A `code` says of each element
how much it counts, or, below 0, that it is padding. Address 0 stands for none.

`extras` is None in kernels that know no residual and no padding: numba then leaves all of that out, which halves the
time that a user's first step takes.
"""

from __future__ import annotations

from normsmith.ops.cpu.lanes import (
    RUN,
    TABLE,
    add_columns_16,
    add_columns_64,
    add_gradient_columns_16,
    add_gradient_columns_64,
    coefficient,
    is_work,
    keep_bits,
    load,
    load_bits,
    part,
    positive_bits,
    prefetch,
    size_of,
    store,
    store_bits,
    stream_line,
)

MEAN, SCALE, SHIFT, OFFSET, SLOPE = range(5)
"""The coefficients of coefficients."""
PLAIN, MOMENT = 5 * TABLE, 6 * TABLE
"""Where the coefficients of the gradient's sums begin."""
AROUND, FIRST, SECOND, COUNT = range(0, 4 * TABLE, TABLE)
"""Where the coefficients of a batch's sums around a shift begin."""


@part
def sums(x, n, shift, like, work):
    """Σ(x − shift) and Σ(x − shift)² of a run."""
    first, second = work(0), work(0)
    for i in range(n):
        apart = load(x, i, like) - shift
        first += apart
        second += apart * apart
    return first, second


@part
def weighted_sums(x, code, n, shift, like, work):
    """Σw, Σw(x − shift) and Σw(x − shift)² of a run; padding counts nothing, whatever it holds."""
    count, first, second = work(0), work(0), work(0)
    for i in range(n):
        weight, apart = load(code, i, work), load(x, i, like) - shift
        if weight <= 0:
            weight, apart = work(0), work(0)
        count += weight
        first += weight * apart
        second += weight * apart * apart
    return count, first, second


@part
def fetch_rows(at, stride, rows, size):
    """Ask for rows that are read next."""
    for row in range(rows):
        for line in range(0, size, 64):
            prefetch(at + row * stride + line)


@part
def add_sums(x, stride, rows, n, tables, like, work):
    """Add (x − shift) and its square to the sums of each column, over rows that lie `stride` bytes apart."""
    size, together = size_of(like), max(8, 8 * RUN // n)  # rows that the first cache holds
    for begin in range(0, rows, together):
        some, at = min(together, rows - begin), x + begin * stride
        fetch_rows(at + some * stride, stride, min(together, rows - begin - some), n * size)
        for k in range(0, n - 63, 64):
            add_columns_64(at + k * size, stride, some, tables, k, like, work)
        for k in range(n - n % 64, n - 15, 16):
            add_columns_16(at + k * size, stride, some, tables, k, like, work)
        for row in range(some if n % 16 != 0 else 0):
            for k in range(n - n % 16, n):
                p = load(at + row * stride, k, like) - load(tables, AROUND + k, work)
                store(tables, FIRST + k, load(tables, FIRST + k, work) + p, work)
                store(tables, SECOND + k, load(tables, SECOND + k, work) + p * p, work)


@part
def add_weighted_sums(x, code, n, tables, like, work):
    """Add w, w(x − shift) and w(x − shift)² of one row to the sums of each column."""
    for k in range(n):
        weight, apart = load(code, k, work), load(x, k, like) - load(tables, AROUND + k, work)
        if weight <= 0:
            weight, apart = work(0), work(0)
        store(tables, COUNT + k, load(tables, COUNT + k, work) + weight, work)
        store(tables, FIRST + k, load(tables, FIRST + k, work) + weight * apart, work)
        store(tables, SECOND + k, load(tables, SECOND + k, work) + weight * apart * apart, work)


@part
def emit(source, target, spare, n, streams, like, work):
    """Write a run of numbers as elements, past the caches if it `streams`."""
    size = size_of(like)
    if not streams:
        for i in range(n):
            store(target, i, load(source, i, work), like)
        return
    if not is_work(like, work):
        for i in range(n):
            store(spare, i, load(source, i, work), like)
        source = spare
    head = min(n, ((64 - target % 64) % 64) // size)
    lines = (n - head) * size // 64
    done = head + lines * (64 // size)
    from_, to = source + head * size, target + head * size
    for line in range(lines):
        stream_line(to + 64 * line, from_ + 64 * line)
    for i in range(head + n - done):
        at = i if i < head else i + done - head
        store(target, at, load(source, at, like), like)


@part
def normalise(x, y, residual, code, bits, n, coefficients, relu, streams, buffer, spare, extras, like, work):
    """A run of y = relu((x − mean)·scale + shift + residual), with its bits where those are kept."""
    direct = is_work(like, work) and not streams and bits == 0
    out = y if direct else buffer
    for i in range(n):
        apart = load(x, i, like) - coefficient(coefficients, MEAN, i, work)
        store(
            out,
            i,
            apart * coefficient(coefficients, SCALE, i, work) + coefficient(coefficients, SHIFT, i, work),
            work,
        )
    if extras is not None:
        if residual != 0:
            for i in range(n):
                store(out, i, load(out, i, work) + load(residual, i, like), work)
        if bits != 0:
            for word in range((n + 15) // 16):  # of the last word only its share is meant
                store_bits(bits, word, positive_bits(out + 16 * word * size_of(work), work))
    if relu:
        for i in range(n):
            value = load(out, i, work)
            store(out, i, work(0) if value <= 0 else value, work)
    if extras is not None:
        if code != 0:
            for i in range(n):
                value = load(out, i, work)
                store(out, i, work(0) if load(code, i, work) < 0 else value, work)
    if not direct:
        emit(out, y, spare, n, streams, like, work)


@part
def pre_gradient(g, x, code, bits, n, coefficients, relu, buffer, extras, like, work):
    """The gradient before the activation, of a run: where it lies, as numbers to work with."""
    if is_work(like, work) and not relu and code == 0:
        return g
    if relu and bits == 0:
        for i in range(n):
            apart = load(x, i, like) - coefficient(coefficients, MEAN, i, work)
            before = apart * coefficient(coefficients, SCALE, i, work) + coefficient(
                coefficients, SHIFT, i, work
            )
            value = load(g, i, like)
            store(buffer, i, work(0) if before <= 0 else value, work)
    else:
        for i in range(n):
            store(buffer, i, load(g, i, like), work)
    if extras is not None:
        if bits != 0:
            for word in range((n + 15) // 16):
                keep_bits(buffer + 16 * word * size_of(work), load_bits(bits, word), work)
        if code != 0:
            for i in range(n):
                value = load(buffer, i, work)
                store(buffer, i, work(0) if load(code, i, work) < 0 else value, work)
    return buffer


@part
def gradient_sums(g, x, code, n, mean, extras, like, work):
    """Σg and Σg·(x − mean) of a run."""
    plain, moment = work(0), work(0)
    if extras is not None:
        if code != 0:
            for i in range(n):
                apart = load(x, i, like) - mean
                plain += load(g, i, work)
                moment += load(g, i, work) * (work(0) if load(code, i, work) < 0 else apart)
            return plain, moment
    for i in range(n):
        plain += load(g, i, work)
        moment += load(g, i, work) * (load(x, i, like) - mean)
    return plain, moment


@part
def add_gradient_sums(g, g_stride, x, x_stride, rows, n, tables, like, work):
    """Add g and g·(x − mean) to the sums of each column, over rows that lie strides of bytes apart."""
    size, wide, together = size_of(like), size_of(work), max(8, 4 * RUN // n)
    for begin in range(0, rows, together):
        some, at_g, at = min(together, rows - begin), g + begin * g_stride, x + begin * x_stride
        following = min(together, rows - begin - some)
        fetch_rows(at + some * x_stride, x_stride, following, n * size)
        fetch_rows(at_g + some * g_stride, g_stride, following, n * wide)
        for k in range(0, n - 63, 64):
            add_gradient_columns_64(
                at_g + k * wide, g_stride, at + k * size, x_stride, some, tables, k, like, work
            )
        for k in range(n - n % 64, n - 15, 16):
            add_gradient_columns_16(
                at_g + k * wide, g_stride, at + k * size, x_stride, some, tables, k, like, work
            )
        for row in range(some if n % 16 != 0 else 0):
            for k in range(n - n % 16, n):
                apart = load(at + row * x_stride, k, like) - load(tables, MEAN * TABLE + k, work)
                value = load(at_g + row * g_stride, k, work)
                store(tables, PLAIN + k, load(tables, PLAIN + k, work) + value, work)
                store(tables, MOMENT + k, load(tables, MOMENT + k, work) + value * apart, work)


@part
def add_counted_gradient_sums(g, x, code, n, tables, like, work):
    """Add g and g·(x − mean) of one row to the sums of each column, where it is not padding."""
    for k in range(n):
        apart = load(x, k, like) - load(tables, MEAN * TABLE + k, work)
        if load(code, k, work) < 0:
            apart = work(0)
        store(tables, PLAIN + k, load(tables, PLAIN + k, work) + load(g, k, work), work)
        store(tables, MOMENT + k, load(tables, MOMENT + k, work) + load(g, k, work) * apart, work)


@part
def differentiate(g, x, dx, code, n, coefficients, streams, buffer, spare, extras, like, work):
    """A run of dx = scale·g − w·(offset + slope·(x − mean)), 0 in padding."""
    direct = is_work(like, work) and not streams
    out = dx if direct else buffer
    for i in range(n):
        apart = load(x, i, like) - coefficient(coefficients, MEAN, i, work)
        through = (
            coefficient(coefficients, OFFSET, i, work) + coefficient(coefficients, SLOPE, i, work) * apart
        )
        if extras is not None:
            if code != 0:
                weight = load(code, i, work)
                through = work(0) if weight < 0 else weight * through
        store(out, i, coefficient(coefficients, SCALE, i, work) * load(g, i, work) - through, work)
    if not direct:
        emit(out, dx, spare, n, streams, like, work)
