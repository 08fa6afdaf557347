"""From sums to decisions, per channel, on the device: what `moments` and `resolve` do, inside kernels."""
# mypy: ignore-errors
# The bodies are Triton's language, not Python's: their types exist on the device only.

from __future__ import annotations

import triton
import triton.language as tl

from normsmith.ops.gpu.elements import clip
from normsmith.ops.gpu.tiles import load_tile, long, nonzero, over_rows, single, summed, tile_at, values_at

LARGEST = tl.constexpr(3.4028234663852886e38)
"""The largest number of float32."""


@triton.jit
def averaged(n, share, value, AXIS: tl.constexpr):
    """Σ share·value along an axis, rounded alike in all threads that hold it.

    When two threads add their products, the compiler makes product and sum one operation in each, which rounds the
    other's product but not its own: they would hold two numbers. A choice between product and sum prevents that.
    """
    return tl.sum(tl.where(n > 0, share * value, 0.0), AXIS)


@triton.jit
def merge_lanes(n, mean, low, m2, AXIS: tl.constexpr):
    """Chan's formula along an axis; mean + low is one number of two parts. Parts without values change nothing."""
    total = tl.sum(n, AXIS)
    share = n / tl.expand_dims(nonzero(total), AXIS)
    base = averaged(n, share, mean, AXIS)
    apart = (mean - tl.expand_dims(base, AXIS)) + low
    rest = averaged(n, share, apart, AXIS)
    apart -= tl.expand_dims(rest, AXIS)
    m2 = tl.sum(m2 + n * apart * apart, AXIS)
    mean = base + rest
    added = mean - base  # of base + rest, rounding took what is missing here, whichever of the two is larger
    return total, mean, (base - (mean - added)) + (rest - added), m2


@triton.jit
def join(n, mean, low, m2, n_, mean_, low_, m2_):
    """Merge two sets of moments by Chan's formula."""
    total = n + n_
    share = n_ / nonzero(total)
    base = tl.where(n > 0, mean, mean_)
    here, there = tl.where(n > 0, low, 0.0), (mean_ - base) + low_
    apart = there - here
    return total, base, here + share * apart, m2 + m2_ + apart * apart * n * share


@triton.jit
def gather_lanes(n, squares, mean, low, m2, PLANES: tl.constexpr):
    """Merge the lanes of a tile: over its rows and, in a plane, over its columns."""
    n, mean, low, m2 = merge_lanes(n, mean, low, m2, 0)
    if PLANES:
        n, mean, low, m2 = merge_lanes(n, mean, low, m2, 0)
    return n, summed(squares, PLANES), mean, low, m2


@triton.jit
def moments_of(value, weight, valid, number, WEIGHTED: tl.constexpr, PLANES: tl.constexpr):
    """W, Σw², mean, low and M2 of a tile that a program holds."""
    if WEIGHTED:
        nothing = value * 0.0
        n, squares, mean, low, m2 = gather_lanes(weight, weight * weight, value, nothing, nothing, PLANES)
    else:
        n, squares = number, number
        mean = summed(value, PLANES) / nonzero(n)
        centred = tl.where(valid, value - over_rows(mean, PLANES), 0.0)
        low = summed(centred, PLANES) / nonzero(n)
        m2 = summed(centred * centred, PLANES) - low * low * n
        m2 = tl.where(m2 < 0, 0.0, m2)
    return n, squares, mean, low, m2


@triton.jit
def estimate(
    x, first, end, left, right, chunks, start, stop, columns, positions,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PLANES: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """About the mean of the tiles from start to stop: in a plane that of the first tile, else that of four rows."""
    if PLANES:
        row, column = tile_at(start, chunks, first, left, ROWS, COLUMNS)
        value, weight, _, _ = load_tile(x, None, row, column, end, right, columns, positions, POLICY)
        mean = summed(value, PLANES) / nonzero(summed(weight, PLANES))
    else:
        column = left + tl.arange(0, COLUMNS)
        top = first + start * ROWS
        bottom = tl.minimum(first + stop * ROWS, end) - 1
        mean = tl.zeros((COLUMNS,), tl.float32)
        for quarter in tl.static_range(4):
            row = top + (bottom - top) * quarter // 3
            mean += tl.load(x + row * columns + column, mask=column < right, other=0.0).to(tl.float32)
        mean *= 0.25  # exact: all threads of a column take the same shift
    return mean


@triton.jit
def measure_tiles(
    x, w, first, end, left, right, chunks, start, stop, number, columns, positions,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PLANES: tl.constexpr, POLICY: tl.constexpr,
    STAGES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """W, Σw², mean, low and M2 of the tiles from start to stop, summed around an estimate of the mean."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    moment = total
    if w is None:
        mean = estimate(
            x, first, end, left, right, chunks, start, stop, columns, positions, ROWS, COLUMNS, PLANES, POLICY
        )
        shift = over_rows(mean, PLANES)
        for tile in tl.range(start, stop, num_stages=STAGES, loop_unroll_factor=UNROLL):
            row, column = tile_at(tile, chunks, first, left, ROWS, COLUMNS)
            value, _, valid, _ = load_tile(x, w, row, column, end, right, columns, positions, POLICY)
            centred = tl.where(valid, value - shift, 0.0)
            total += centred
            moment += centred * centred
        sums = summed(total, PLANES)
        n, squares, low = number, number, sums / nonzero(number)
        m2 = summed(moment, PLANES) - sums * low
        m2 = tl.where(m2 < 0, 0.0, m2)
    else:  # a tile may hold nothing valid: every lane takes its own first value as estimate
        lanes = total
        weights, again = lanes, lanes
        for tile in range(start, stop):
            row, column = tile_at(tile, chunks, first, left, ROWS, COLUMNS)
            value, weight, valid, _ = load_tile(x, w, row, column, end, right, columns, positions, POLICY)
            lanes = tl.where(weights == 0, value, lanes)
            centred = value - lanes
            total += weight * centred
            moment += weight * centred * centred
            again += weight * weight
            weights += weight
        rest = total / nonzero(weights)
        spread = moment - total * rest
        lanes, spread = tl.where(weights > 0, lanes, 0.0), tl.where(spread < 0, 0.0, spread)
        n, squares, mean, low, m2 = gather_lanes(weights, again, lanes, rest, spread, PLANES)
    return n, squares, mean, low, m2


@triton.jit
def population_of(at, inside, running_mean, running_var, running_std, eps):
    """Mean and inverse standard deviation of the running statistics; their initial values where none are tracked."""
    mean = (at * 0).to(tl.float32)
    eps = single(eps)
    inv_std = tl.rsqrt(mean + 1.0 + eps)
    if running_mean is not None:
        mean = tl.load(running_mean + at, mask=inside, other=0.0).to(tl.float32)
        if running_std is not None:
            inv_std = 1.0 / tl.load(running_std + at, mask=inside, other=1.0).to(tl.float32)
        else:
            inv_std = tl.rsqrt(tl.load(running_var + at, mask=inside, other=1.0).to(tl.float32) + eps)
    return mean, inv_std


@triton.jit
def population_where(at, inside, running_mean, running_var, running_std, eps, NEEDED: tl.constexpr):
    """`population_of` where it decides something; 0 elsewhere."""
    mean = (at * 0).to(tl.float32)
    inv_std = mean
    if NEEDED:
        mean, inv_std = population_of(at, inside, running_mean, running_var, running_std, eps)
    return mean, inv_std


@triton.jit
def coefficients_of(mean, low, inv_std, r, d, gamma, beta, at, inside):
    """Scale and shift of y = (x − mean)·scale + shift."""
    scale, shift = inv_std * r, d
    if gamma is not None:
        weight = tl.load(gamma + at, mask=inside, other=0.0).to(tl.float32)
        scale *= weight
        shift *= weight
    if beta is not None:
        shift += tl.load(beta + at, mask=inside, other=0.0).to(tl.float32)
    return scale, shift - low * scale


@triton.jit
def move_running(buffer, at, inside, value, usable, momentum):
    """Move a running buffer towards a value, by momentum, where the value is usable."""
    old = tl.load(buffer + at, mask=inside, other=0.0)
    tl.store(buffer + at, tl.where(usable, old + momentum * (value - old), old), mask=inside)


@triton.jit
def settle_forward(
    n, squares, mean, low, m2, at, inside, writes, group, running, deviation, gamma, beta, running_mean, running_var,
    running_std, batches, r_max, d_max, r_max_at, d_max_at, kept, counts, enough_at, channels, groups, eps, momentum,
    WEIGHTED: tl.constexpr, RENORM: tl.constexpr, UPDATE: tl.constexpr, SKIP: tl.constexpr,
):  # fmt: skip
    """Decide what normalises, as `resolve` does, write it down, and update the running statistics, as `commit` does.

    `running` and `deviation` are mean and inverse standard deviation of the running statistics before that. Only where
    `writes` anything is written.
    """
    eps, momentum = single(eps), single(momentum)
    variance = m2 / nonzero(n)
    inv_std = tl.rsqrt(variance + eps)
    d = (at * 0).to(tl.float32)
    r, enough = d + 1.0, n > 0
    row = long(groups) * channels
    place = kept + group.to(tl.int64) * channels + at
    tl.store(place + 5 * row, m2, mask=writes)
    tl.store(place + 8 * row, mean, mask=writes)
    tl.store(place + 9 * row, low, mask=writes)
    if WEIGHTED:
        enough = enough & (n * n >= (2 - 1e-6) * squares)
        head = writes & (at == 0)
        tl.store(counts + group + 0 * at, n, mask=head)
        tl.store(counts + groups + group + 0 * at, squares, mask=head)
        tl.store(enough_at + group + 0 * at, enough, mask=head)
    both, unbiased = mean + low, m2 / nonzero(n - squares / nonzero(n))
    if RENORM:
        if r_max_at is not None:
            r_max = tl.load(r_max_at).to(tl.float32)
        if d_max_at is not None:
            d_max = tl.load(d_max_at).to(tl.float32)
        r_max = clip(d + single(r_max), 1.0, LARGEST)
        d_max = clip(d + single(d_max), 0.0, LARGEST)
        r = clip(deviation / inv_std, 1.0 / r_max, r_max)
        d = clip(((mean - running) + low) * deviation, -d_max, d_max)
    if WEIGHTED:
        mean, low = tl.where(enough, mean, running), tl.where(enough, low, 0.0)
        inv_std = tl.where(enough, inv_std, deviation)
        r, d = tl.where(enough, r, 1.0), tl.where(enough, d, 0.0)
    if UPDATE:
        if RENORM or WEIGHTED:
            tl.debug_barrier()  # every warp has read the running statistics before one of them moves them
        usable = enough & (unbiased <= LARGEST) if SKIP else enough
        move_running(running_mean, at, writes, both, usable, momentum)
        move_running(running_var, at, writes, unbiased, usable, momentum)
        if running_std is not None:
            move_running(running_std, at, writes, tl.sqrt(variance + eps), usable, momentum)
        if batches is not None:
            head = writes & (at == 0)
            tl.store(batches + 0 * at, tl.load(batches + 0 * at, mask=head) + 1, mask=head)
    scale, shift = coefficients_of(mean, low, inv_std, r, d, gamma, beta, at, inside)
    tl.store(place, mean, mask=writes)
    tl.store(place + row, low, mask=writes)
    tl.store(place + 2 * row, inv_std, mask=writes)
    tl.store(place + 3 * row, scale, mask=writes)
    tl.store(place + 4 * row, shift, mask=writes)
    tl.store(place + 6 * row, r, mask=writes)
    tl.store(place + 7 * row, d, mask=writes)
    return mean, scale, shift


@triton.jit
def settle_backward(
    plain, moment, at, inside, writes, group, low, inv_std, r, d, scale, count, counts, by_batch, grads, channels,
    groups, BY_BATCH: tl.constexpr,
):  # fmt: skip
    """dγ, dβ, and the offset and slope of dx, as `gradients` computes them from Σg and Σg·(x − mean)."""
    deviation = values_at(at, inside, group, channels, inv_std)
    rest = values_at(at, inside, group, channels, low)
    moment -= rest * plain
    normal = moment * deviation
    dweight = normal
    if r is not None:
        dweight = normal * values_at(at, inside, group, channels, r)
        dweight += plain * values_at(at, inside, group, channels, d)
    row = long(groups) * channels
    place = grads + group.to(tl.int64) * channels + at
    tl.store(place, dweight, mask=writes)
    tl.store(place + row, plain, mask=writes)
    offset = (at * 0).to(tl.float32)
    slope = offset
    if BY_BATCH:
        if counts is not None:
            count = tl.load(counts + group)
        share = 1.0 / nonzero(offset + single(count))
        if by_batch is not None:
            share = tl.where(tl.load(by_batch + group), share, 0.0)
        offset, slope = scale * plain * share, scale * normal * deviation * share
        offset -= slope * rest
        tl.store(place + 2 * row, offset, mask=writes)
        tl.store(place + 3 * row, slope, mask=writes)
    return offset, slope
