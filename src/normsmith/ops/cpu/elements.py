"""What is done to a run of elements that fits the first cache, one step after the other.

Coefficients are numbers, one for all elements, or tables, one number per element of the run. Tables lie side by
side at one address, those of sums too: a loop that knows few addresses is vectorised. A `code` says of each element
how much it counts, or, below 0, that it is padding. Address 0 stands for none.

`extras` is None in kernels that know no residual and no padding: numba then leaves all of that out, which halves the
time that a user's first step takes.
"""

from __future__ import annotations

from normsmith.ops.cpu.lanes import (
    TABLE,
    coefficient,
    is_work,
    keep_bits,
    load,
    load_bits,
    part,
    positive_bits,
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
def add_sums(x, stride, rows, n, tables, like, work):
    """Add (x − shift) and its square to the sums of each column, over rows that lie `stride` bytes apart."""
    fours = rows // 4
    for four in range(fours):
        a = x + 4 * four * stride
        b, c, d = a + stride, a + 2 * stride, a + 3 * stride
        for k in range(n):
            s = load(tables, AROUND + k, work)
            p, q, r, t = (
                load(a, k, like) - s,
                load(b, k, like) - s,
                load(c, k, like) - s,
                load(d, k, like) - s,
            )
            store(tables, FIRST + k, load(tables, FIRST + k, work) + ((p + q) + (r + t)), work)
            store(
                tables, SECOND + k, load(tables, SECOND + k, work) + ((p * p + q * q) + (r * r + t * t)), work
            )
    for row in range(4 * fours, rows):
        a = x + row * stride
        for k in range(n):
            p = load(a, k, like) - load(tables, AROUND + k, work)
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
def add_gradient_sums(g, x, code, n, tables, extras, like, work):
    """Add g and g·(x − mean) of one row to the sums of each column."""
    if extras is not None:
        if code != 0:
            for k in range(n):
                apart = load(x, k, like) - coefficient(tables, MEAN, k, work)
                if load(code, k, work) < 0:
                    apart = work(0)
                store(tables, PLAIN + k, load(tables, PLAIN + k, work) + load(g, k, work), work)
                store(tables, MOMENT + k, load(tables, MOMENT + k, work) + load(g, k, work) * apart, work)
            return
    for k in range(n):
        apart = load(x, k, like) - coefficient(tables, MEAN, k, work)
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
