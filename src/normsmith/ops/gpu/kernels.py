"""Triton kernels of batch norm: every memory layout as one matrix, every path as moments, settle, apply and back.

A batch is a matrix of `rows` × `columns` with columns contiguous; column k belongs to channel k // positions:

    (N, C), channels_last    rows = N·S    columns = C      positions = 1
    contiguous (N, C, *S)    rows = N      columns = C·S    positions = S

A program works on tiles of ROWS × COLUMNS. With PLANES it serves one channel (a scalar), otherwise COLUMNS neighbouring
columns, each on its own. Groups (ghost batches) are runs of `size` rows; the last one takes what remains. `w` (None, or
float32 of shape (samples, positions)) is how much an element counts, and −1 where it is not valid: padding may hold
anything, NaN too. Sums run in float32, lane by lane, and are merged by Chan's formula in a fixed order: deterministic.
"""
# mypy: ignore-errors
# The bodies are Triton's language, not Python's: the types below exist on the device only.

from __future__ import annotations

import triton
import triton.language as tl

LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def _span(group, size, rows, groups):
    """First row of a group, and the row after its last."""
    first = group.to(tl.int64) * size
    return first, tl.where(group == groups - 1, rows, first + size)


@triton.jit
def _aligned(number, UNIT: tl.constexpr):
    """The same number, which is a multiple of UNIT: said so that the compiler uses wide loads."""
    return number // UNIT * UNIT


@triton.jit
def _columns(block, columns, positions, COLUMNS: tl.constexpr, PLANES: tl.constexpr):
    """The columns of a block: first, end, how many chunks of COLUMNS, and its channel or its columns."""
    if PLANES:
        left, at = block * positions, block
        right, chunks = left + positions, tl.cdiv(positions, COLUMNS)
    else:
        left = block * COLUMNS
        right, chunks, at = columns, 1, left + tl.arange(0, COLUMNS)
    return left, right, chunks, at


@triton.jit
def _across(values, PLANES: tl.constexpr):
    """Lay per-column values out over the rows of a tile; a plane's are scalars."""
    if not PLANES:
        values = values[None, :]
    return values


@triton.jit
def _at(tile, chunks, first, left, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows (64 bits: batches may have more than 2³¹ elements) and columns of a tile."""
    tile = first * 0 + tile
    row = first + tile // chunks * ROWS + tl.arange(0, ROWS)[:, None]
    column = left + (tile % chunks).to(tl.int32) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return row, column


@triton.jit
def _load(x, w, row, column, end, right, columns, positions, POLICY: tl.constexpr):
    """A tile in float32, its weights, which elements are valid, and which lie inside the matrix."""
    inside = (row < end) & (column < right)
    value = tl.load(x + row * columns + column, mask=inside, other=0.0, eviction_policy=POLICY).to(tl.float32)
    if w is None:
        weight, valid = inside.to(tl.float32), inside
    else:
        weight = tl.load(w + row * positions + column % positions, mask=inside, other=-1.0)
        valid = inside & ~(weight < 0)
        value, weight = tl.where(valid, value, 0.0), tl.where(valid, weight, 0.0)
    return value, weight, valid, inside


@triton.jit
def _safe(count):
    return tl.where(count > 0, count, 1.0)


@triton.jit
def _merge(n, mean, low, m2, AXIS: tl.constexpr):
    """Chan's formula along an axis; mean + low is one number of two parts. Parts without values change nothing."""
    total = tl.sum(n, AXIS)
    share = n / tl.expand_dims(_safe(total), AXIS)
    base = tl.sum(share * mean, AXIS)
    apart = (mean - tl.expand_dims(base, AXIS)) + low
    rest = tl.sum(share * apart, AXIS)
    apart -= tl.expand_dims(rest, AXIS)
    m2 = tl.sum(m2 + n * apart * apart, AXIS)
    mean = base + rest
    left = mean - base  # what rounding took from base + rest, whichever is larger
    return total, mean, (base - (mean - left)) + (rest - left), m2


@triton.jit
def _before(
    tile, first, end, left, right, chunks, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PLANES: tl.constexpr
):
    """How many values per channel lie in the tiles before one."""
    tile = first * 0 + tile
    rows = end - first
    above = tl.minimum(tile // chunks * ROWS, rows)
    if PLANES:
        beside = tl.minimum(tile % chunks * COLUMNS, right - left)
        above = above * (right - left) + beside * tl.minimum(rows - above, ROWS)
    return above


@triton.jit
def _number(
    at, start, stop, first, end, left, right, chunks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    """How many values per channel lie in the tiles from start to stop."""
    number = _before(stop, first, end, left, right, chunks, ROWS, COLUMNS, PLANES)
    number -= _before(start, first, end, left, right, chunks, ROWS, COLUMNS, PLANES)
    return (at * 0).to(tl.float32) + number.to(tl.float32)


@triton.jit
def _sum(tile, PLANES: tl.constexpr):
    """Sum a tile over its rows and, in a plane, over its columns."""
    tile = tl.sum(tile, 0)
    if PLANES:
        tile = tl.sum(tile, 0)
    return tile


@triton.jit
def _gathered(n, squares, mean, low, m2, PLANES: tl.constexpr):
    """Merge the lanes of a tile: over its rows and, in a plane, over its columns."""
    n, mean, low, m2 = _merge(n, mean, low, m2, 0)
    if PLANES:
        n, mean, low, m2 = _merge(n, mean, low, m2, 0)
    return n, _sum(squares, PLANES), mean, low, m2


@triton.jit
def _moments_of(value, weight, valid, number, WEIGHTED: tl.constexpr, PLANES: tl.constexpr):
    """W, Σw², mean, low and M2 of a tile that a program holds."""
    if WEIGHTED:
        nothing = value * 0.0
        n, squares, mean, low, m2 = _gathered(weight, weight * weight, value, nothing, nothing, PLANES)
    else:
        n, squares = number, number
        mean = _sum(value, PLANES) / _safe(n)
        centred = tl.where(valid, value - _across(mean, PLANES), 0.0)
        low = _sum(centred, PLANES) / _safe(n)
        m2 = _sum(centred * centred, PLANES) - low * low * n
        m2 = tl.where(m2 < 0, 0.0, m2)
    return n, squares, mean, low, m2


@triton.jit
def _measure(
    x, w, first, end, left, right, chunks, start, stop, number, columns, positions,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PLANES: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """W, Σw², mean, low and M2 of the tiles from start to stop, summed around an estimate of the mean."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    moment = total
    if w is None:
        row, column = _at(start, chunks, first, left, ROWS, COLUMNS)
        value, weight, _, _ = _load(x, w, row, column, end, right, columns, positions, POLICY)
        mean = _sum(value, PLANES) / _safe(_sum(weight, PLANES))
        shift = _across(mean, PLANES)
        for tile in range(start, stop):
            row, column = _at(tile, chunks, first, left, ROWS, COLUMNS)
            value, _, valid, _ = _load(x, w, row, column, end, right, columns, positions, POLICY)
            centred = tl.where(valid, value - shift, 0.0)
            total += centred
            moment += centred * centred
        sums = _sum(total, PLANES)
        n, squares, low = number, number, sums / _safe(number)
        m2 = _sum(moment, PLANES) - sums * low
        m2 = tl.where(m2 < 0, 0.0, m2)
    else:  # a tile may hold nothing valid: every lane takes its own first value as estimate
        lanes = total
        weights, again = lanes, lanes
        for tile in range(start, stop):
            row, column = _at(tile, chunks, first, left, ROWS, COLUMNS)
            value, weight, valid, _ = _load(x, w, row, column, end, right, columns, positions, POLICY)
            lanes = tl.where(weights == 0, value, lanes)
            centred = value - lanes
            total += weight * centred
            moment += weight * centred * centred
            again += weight * weight
            weights += weight
        rest = total / _safe(weights)
        spread = moment - total * rest
        lanes, spread = tl.where(weights > 0, lanes, 0.0), tl.where(spread < 0, 0.0, spread)
        n, squares, mean, low, m2 = _gathered(weights, again, lanes, rest, spread, PLANES)
    return n, squares, mean, low, m2


@triton.jit
def _population(at, inside, running_mean, running_var, running_std, eps):
    """Mean and inverse standard deviation of the running statistics; their initial values where none are tracked."""
    mean = (at * 0).to(tl.float32)
    inv_std = tl.rsqrt(mean + 1.0 + eps)
    if running_mean is not None:
        mean = tl.load(running_mean + at, mask=inside, other=0.0).to(tl.float32)
        if running_std is not None:
            inv_std = 1.0 / tl.load(running_std + at, mask=inside, other=1.0).to(tl.float32)
        else:
            inv_std = tl.rsqrt(tl.load(running_var + at, mask=inside, other=1.0).to(tl.float32) + eps)
    return mean, inv_std


@triton.jit
def _within(value, least, most):
    """Clip; NaN comes through."""
    return tl.where(value < least, least, tl.where(value > most, most, value))


@triton.jit
def _coefficients(mean, low, inv_std, r, d, gamma, beta, at, inside):
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
def _move(buffer, at, inside, value, usable, momentum):
    old = tl.load(buffer + at, mask=inside, other=0.0)
    tl.store(buffer + at, tl.where(usable, old + momentum * (value - old), old), mask=inside)


@triton.jit
def _settle(
    n, squares, mean, low, m2, at, inside, group, gamma, beta, running_mean, running_var, running_std, batches,
    r_max, d_max, r_max_at, d_max_at, kept, counts, enough_at, channels, groups, eps, momentum,
    WEIGHTED: tl.constexpr, RENORM: tl.constexpr, UPDATE: tl.constexpr, SKIP: tl.constexpr,
):  # fmt: skip
    """Decide what normalises, as `resolve` does; write it down; move the running statistics, as `commit` does."""
    variance = m2 / _safe(n)
    inv_std = tl.rsqrt(variance + eps)
    d = (at * 0).to(tl.float32)
    r, enough = d + 1.0, n > 0
    row = groups.to(tl.int64) * channels
    place = kept + group.to(tl.int64) * channels + at
    tl.store(place + 5 * row, m2, mask=inside)
    if WEIGHTED:
        enough = enough & (n * n >= (2 - 1e-6) * squares)
        tl.store(place + 8 * row, mean, mask=inside)
        tl.store(place + 9 * row, low, mask=inside)
        head = inside & (at == 0)
        tl.store(counts + group + 0 * at, n, mask=head)
        tl.store(counts + groups + group + 0 * at, squares, mask=head)
        tl.store(enough_at + group + 0 * at, enough, mask=head)
    found, unbiased = mean + low, m2 / _safe(n - squares / _safe(n))
    if RENORM:
        running, deviation = _population(at, inside, running_mean, running_var, running_std, eps)
        if r_max_at is not None:
            r_max = tl.load(r_max_at).to(tl.float32)
        if d_max_at is not None:
            d_max = tl.load(d_max_at).to(tl.float32)
        r_max = _within(d + r_max, 1.0, LARGEST)
        d_max = _within(d + d_max, 0.0, LARGEST)
        r = _within(deviation / inv_std, 1.0 / r_max, r_max)
        d = _within(((mean - running) + low) * deviation, -d_max, d_max)
    if WEIGHTED:
        running, deviation = _population(at, inside, running_mean, running_var, running_std, eps)
        mean, low = tl.where(enough, mean, running), tl.where(enough, low, 0.0)
        inv_std = tl.where(enough, inv_std, deviation)
        r, d = tl.where(enough, r, 1.0), tl.where(enough, d, 0.0)
    if UPDATE:
        if RENORM or WEIGHTED:
            tl.debug_barrier()  # every warp has read the running statistics before one of them moves them
        usable = enough & (unbiased <= LARGEST) if SKIP else enough
        _move(running_mean, at, inside, found, usable, momentum)
        _move(running_var, at, inside, unbiased, usable, momentum)
        if running_std is not None:
            _move(running_std, at, inside, tl.sqrt(variance + eps), usable, momentum)
        if batches is not None:
            head = inside & (at == 0)
            tl.store(batches + 0 * at, tl.load(batches + 0 * at, mask=head) + 1, mask=head)
    scale, shift = _coefficients(mean, low, inv_std, r, d, gamma, beta, at, inside)
    tl.store(place, mean, mask=inside)
    tl.store(place + row, low, mask=inside)
    tl.store(place + 2 * row, inv_std, mask=inside)
    tl.store(place + 3 * row, scale, mask=inside)
    tl.store(place + 4 * row, shift, mask=inside)
    if RENORM:
        tl.store(place + 6 * row, r, mask=inside)
        tl.store(place + 7 * row, d, mask=inside)
    return mean, scale, shift


@triton.jit
def _sigmoid(v):
    return 1.0 / (1.0 + tl.exp(-v))


@triton.jit
def _tanh(v):
    small = tl.exp(-2.0 * tl.abs(v))
    large = (1.0 - small) / (1.0 + small)
    square = v * v
    return tl.where(
        square < 0.01, v * (1.0 - square * (1 / 3 - square * (2 / 15))), tl.where(v < 0, -large, large)
    )


@triton.jit
def _activated(v, ACT: tl.constexpr):
    if ACT == "relu":
        v = tl.where(v < 0, 0.0, v)
    elif ACT == "leaky_relu":
        v = tl.where(v > 0, v, 0.01 * v)
    elif ACT == "silu":
        v = v * _sigmoid(v)
    elif ACT == "gelu":
        v = 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))
    elif ACT == "hardswish":
        v = v * _within(v + 3.0, 0.0, 6.0) * (1 / 6)
    elif ACT == "sigmoid":
        v = _sigmoid(v)
    elif ACT == "tanh":
        v = _tanh(v)
    return v


@triton.jit
def _chained(g, v, ACT: tl.constexpr):
    """The gradient before the activation, from the one after it."""
    if ACT == "relu":
        g = tl.where(v <= 0, 0.0, g)
    elif ACT == "leaky_relu":
        g = tl.where(v > 0, g, 0.01 * g)
    elif ACT == "silu":
        s = _sigmoid(v)
        g = g * s * (1.0 + v * (1.0 - s))
    elif ACT == "gelu":
        density = tl.exp(-0.5 * v * v) * 0.3989422804014327
        g = g * (0.5 * (1.0 + tl.erf(v * 0.7071067811865476)) + v * density)
    elif ACT == "hardswish":
        g = tl.where(v < -3.0, 0.0, tl.where(v <= 3.0, g * (v * (1 / 3) + 0.5), g))
    elif ACT == "sigmoid":
        s = _sigmoid(v)
        g = g * (1.0 - s) * s
    elif ACT == "tanh":
        t = _tanh(v)
        g = g * (1.0 - t * t)
    return g


@triton.jit
def _emit(
    value, valid, inside, row, column, columns, z, y, mean, scale, shift,
    ACT: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """y = act((x − mean)·scale + shift + z), 0 where not valid."""
    out = (value - mean) * scale + shift
    place = row * columns + column
    if z is not None:
        out += tl.load(z + place, mask=valid, other=0.0, eviction_policy="evict_first").to(tl.float32)
    out = tl.where(valid, _activated(out, ACT), 0.0)
    tl.store(y + place, out.to(y.dtype.element_ty), mask=inside, eviction_policy=POLICY)


@triton.jit
def _incoming(
    g, value, valid, row, column, columns, z, mean, scale, shift, ACT: tl.constexpr, POLICY: tl.constexpr
):  # fmt: skip
    """The gradient before the activation, 0 where not valid."""
    place = row * columns + column
    grad = tl.load(g + place, mask=valid, other=0.0, eviction_policy=POLICY).to(tl.float32)
    if ACT != "none":
        before = (value - mean) * scale + shift
        if z is not None:
            before += tl.load(z + place, mask=valid, other=0.0, eviction_policy=POLICY).to(tl.float32)
        grad = tl.where(valid, _chained(grad, before, ACT), 0.0)
    return grad


@triton.jit
def _return(
    grad, value, weight, inside, row, column, columns, dx, dz, mean, scale, offset, slope,
    BY_BATCH: tl.constexpr, WEIGHTED: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """dx = scale·g − w·(offset + slope·(x − mean)), and the residual's gradient g."""
    out = grad * scale
    if BY_BATCH:
        through = offset + slope * (value - mean)
        out -= weight * through if WEIGHTED else through
    place = row * columns + column
    tl.store(dx + place, out.to(dx.dtype.element_ty), mask=inside, eviction_policy=POLICY)
    if dz is not None:
        tl.store(dz + place, grad.to(dz.dtype.element_ty), mask=inside, eviction_policy=POLICY)


@triton.jit
def _given(at, inside, group, channels, values):
    """A (groups, channels) tensor at the channels of a program; None stands for 0."""
    found = (at * 0).to(tl.float32)
    if values is not None:
        found = tl.load(values + group.to(tl.int64) * channels + at, mask=inside, other=0.0).to(tl.float32)
    return found


@triton.jit
def _settle_back(
    plain, moment, at, inside, group, low, inv_std, r, d, scale, count, counts, by_batch, grads, channels, groups,
    BY_BATCH: tl.constexpr,
):  # fmt: skip
    """dγ, dβ, and the offset and slope of dx, as `gradients` finds them from Σg and Σg·(x − mean)."""
    deviation = _given(at, inside, group, channels, inv_std)
    rest = _given(at, inside, group, channels, low)
    moment -= rest * plain
    normal = moment * deviation
    dweight = normal
    if r is not None:
        dweight = normal * _given(at, inside, group, channels, r)
        dweight += plain * _given(at, inside, group, channels, d)
    row = groups.to(tl.int64) * channels
    place = grads + group.to(tl.int64) * channels + at
    tl.store(place, dweight, mask=inside)
    tl.store(place + row, plain, mask=inside)
    offset = (at * 0).to(tl.float32)
    slope = offset
    if BY_BATCH:
        if counts is not None:
            count = tl.load(counts + group)
        share = 1.0 / _safe(offset + count)
        if by_batch is not None:
            share = tl.where(tl.load(by_batch + group), share, 0.0)
        offset, slope = scale * plain * share, scale * normal * deviation * share
        offset -= slope * rest
        tl.store(place + 2 * row, offset, mask=inside)
        tl.store(place + 3 * row, slope, mask=inside)
    return offset, slope


# One launch: a program reads its channels, settles them, and reads them again (from cache, or HELD in registers).


@triton.jit(do_not_specialize=["size", "rows", "channels", "groups"])
def forward_at_once(
    x, w, z, y, gamma, beta, running_mean, running_var, running_std, batches, r_max, d_max, r_max_at, d_max_at,
    kept, counts, enough_at, size, rows, columns, positions, channels, groups, eps, momentum,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, PLANES: tl.constexpr, HELD: tl.constexpr,
    ACT: tl.constexpr, RENORM: tl.constexpr, UPDATE: tl.constexpr, SKIP: tl.constexpr,
):  # fmt: skip
    block, group = tl.program_id(0), tl.program_id(1)
    columns = _aligned(columns, UNIT)
    if PLANES:
        positions = _aligned(positions, UNIT)
    first, end = _span(group, size, rows, groups)
    left, right, chunks, at = _columns(block, columns, positions, COLUMNS, PLANES)
    tiles = tl.cdiv(end - first, ROWS) * chunks
    number = _number(at, 0, tiles, first, end, left, right, chunks, ROWS, COLUMNS, PLANES)
    if HELD:
        row, column = _at(block * 0, 1, first, left, ROWS, COLUMNS)
        value, weight, valid, inside = _load(x, w, row, column, end, right, columns, positions, "evict_first")
        n, squares, mean, low, m2 = _moments_of(value, weight, valid, number, w is not None, PLANES)
    else:
        n, squares, mean, low, m2 = _measure(
            x, w, first, end, left, right, chunks, 0, tiles, number, columns, positions,
            ROWS, COLUMNS, PLANES, "evict_last",
        )  # fmt: skip
    mean, scale, shift = _settle(
        n, squares, mean, low, m2, at, at < channels, group, gamma, beta, running_mean, running_var, running_std,
        batches, r_max, d_max, r_max_at, d_max_at, kept, counts, enough_at, channels, groups, eps, momentum,
        w is not None, RENORM, UPDATE, SKIP,
    )  # fmt: skip
    mean, scale, shift = _across(mean, PLANES), _across(scale, PLANES), _across(shift, PLANES)
    if HELD:
        _emit(value, valid, inside, row, column, columns, z, y, mean, scale, shift, ACT, "")
    else:
        for step in range(0, tiles):
            row, column = _at(tiles - 1 - step, chunks, first, left, ROWS, COLUMNS)
            value, _, valid, inside = _load(x, w, row, column, end, right, columns, positions, "evict_first")
            _emit(value, valid, inside, row, column, columns, z, y, mean, scale, shift, ACT, "evict_first")


@triton.jit(do_not_specialize=["size", "rows", "channels", "groups"])
def backward_at_once(
    g, x, w, z, dx, dz, means, low, inv_std, r, d, scales, shifts, count, counts, by_batch, grads,
    size, rows, columns, positions, channels, groups,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, PLANES: tl.constexpr, HELD: tl.constexpr,
    ACT: tl.constexpr, BY_BATCH: tl.constexpr,
):  # fmt: skip
    block, group = tl.program_id(0), tl.program_id(1)
    columns = _aligned(columns, UNIT)
    if PLANES:
        positions = _aligned(positions, UNIT)
    first, end = _span(group, size, rows, groups)
    left, right, chunks, at = _columns(block, columns, positions, COLUMNS, PLANES)
    known = at < channels
    plane_scale = _given(at, known, group, channels, scales)
    mean, scale = _across(_given(at, known, group, channels, means), PLANES), _across(plane_scale, PLANES)
    shift = _across(_given(at, known, group, channels, shifts), PLANES)
    tiles = tl.cdiv(end - first, ROWS) * chunks
    if HELD:
        row, column = _at(block * 0, 1, first, left, ROWS, COLUMNS)
        value, weight, valid, inside = _load(x, w, row, column, end, right, columns, positions, "evict_first")
        grad = _incoming(g, value, valid, row, column, columns, z, mean, scale, shift, ACT, "evict_first")
        plain, moment = grad, grad * (value - mean)
    else:
        plain = tl.zeros((ROWS, COLUMNS), tl.float32)
        moment = plain
        for tile in range(0, tiles):
            row, column = _at(tile, chunks, first, left, ROWS, COLUMNS)
            value, _, valid, _ = _load(x, w, row, column, end, right, columns, positions, "evict_last")
            grad = _incoming(g, value, valid, row, column, columns, z, mean, scale, shift, ACT, "evict_last")
            plain += grad
            moment += grad * (value - mean)
    plain, moment = _sum(plain, PLANES), _sum(moment, PLANES)
    offset, slope = _settle_back(
        plain, moment, at, known, group, low, inv_std, r, d, plane_scale, count, counts, by_batch, grads, channels,
        groups, BY_BATCH,
    )  # fmt: skip
    if dx is not None:
        offset, slope = _across(offset, PLANES), _across(slope, PLANES)
        if HELD:
            _return(
                grad, value, weight, inside, row, column, columns, dx, dz, mean, scale, offset, slope,
                BY_BATCH, w is not None, "",
            )  # fmt: skip
        else:
            for step in range(0, tiles):
                row, column = _at(tiles - 1 - step, chunks, first, left, ROWS, COLUMNS)
                value, weight, valid, inside = _load(
                    x, w, row, column, end, right, columns, positions, "evict_first"
                )  # fmt: skip
                grad = _incoming(
                    g, value, valid, row, column, columns, z, mean, scale, shift, ACT, "evict_first"
                )
                _return(
                    grad, value, weight, inside, row, column, columns, dx, dz, mean, scale, offset, slope,
                    BY_BATCH, w is not None, "evict_first",
                )  # fmt: skip


# Split: every program sums a part of a block, a small kernel merges the parts, a third one applies.


@triton.jit
def _part(first, end, chunks, split, splits, ROWS: tl.constexpr):
    """The tiles of one split: from, to."""
    tiles = tl.cdiv(end - first, ROWS) * chunks
    return tiles * split // splits, tiles * (split + 1) // splits


@triton.jit(do_not_specialize=["size", "rows", "groups", "splits", "blocks", "width"])
def measure_parts(
    x, w, parts, size, rows, columns, positions, groups, splits, blocks, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, PLANES: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """Moments of every part: `parts` has the shape (5, groups, splits, width)."""
    program = tl.program_id(0)
    block, split, group = program % blocks, program // blocks % splits, program // blocks // splits
    columns = _aligned(columns, UNIT)
    if PLANES:
        positions = _aligned(positions, UNIT)
    first, end = _span(group, size, rows, groups)
    left, right, chunks, at = _columns(block, columns, positions, COLUMNS, PLANES)
    start, stop = _part(first, end, chunks, split, splits, ROWS)
    number = _number(at, start, stop, first, end, left, right, chunks, ROWS, COLUMNS, PLANES)
    n, squares, mean, low, m2 = _measure(
        x, w, first, end, left, right, chunks, start, stop, number, columns, positions, ROWS, COLUMNS, PLANES, POLICY
    )  # fmt: skip
    place = parts + (group * splits + split).to(tl.int64) * width + at
    row, inside = groups.to(tl.int64) * splits * width, at < width
    tl.store(place, n, mask=inside)
    tl.store(place + row, squares, mask=inside)
    tl.store(place + 2 * row, mean, mask=inside)
    tl.store(place + 3 * row, low, mask=inside)
    tl.store(place + 4 * row, m2, mask=inside)


@triton.jit
def _share_of(part, channel, number, splits, width, entries, group, channels):
    """Where a channel's parts lie in a workspace, and which of them exist."""
    place = (group * splits + part // entries).to(tl.int64) * width + channel * entries + part % entries
    return place, (part < number) & (channel < channels)


@triton.jit
def _joined(n, mean, low, m2, n_, mean_, low_, m2_):
    """Chan's formula for two."""
    total = n + n_
    share = n_ / _safe(total)
    base = tl.where(n > 0, mean, mean_)
    here, there = tl.where(n > 0, low, 0.0), (mean_ - base) + low_
    apart = there - here
    return total, base, here + share * apart, m2 + m2_ + apart * apart * n * share


@triton.jit(do_not_specialize=["splits", "width", "channels", "groups"])
def settle_parts(
    parts, gamma, beta, running_mean, running_var, running_std, batches, r_max, d_max, r_max_at, d_max_at,
    kept, counts, enough_at, splits, width, entries, channels, groups, eps, momentum,
    PARTS: tl.constexpr, CHANNELS: tl.constexpr, WEIGHTED: tl.constexpr, DECIDE: tl.constexpr,
    RENORM: tl.constexpr, UPDATE: tl.constexpr, SKIP: tl.constexpr,
):  # fmt: skip
    """Merge all parts of a channel and settle it; without DECIDE, only write its moments down."""
    at, group = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS), tl.program_id(1)
    row = groups.to(tl.int64) * splits * width
    number = splits * entries
    n = tl.zeros((PARTS, CHANNELS), tl.float32)
    squares, mean, low, m2 = n, n, n, n
    for start in range(0, number, PARTS):
        part = start + tl.arange(0, PARTS)[:, None]
        place, exists = _share_of(part, at[None, :], number, splits, width, entries, group, channels)
        squares += tl.load(parts + row + place, mask=exists, other=0.0)
        n, mean, low, m2 = _joined(
            n, mean, low, m2,
            tl.load(parts + place, mask=exists, other=0.0),
            tl.load(parts + 2 * row + place, mask=exists, other=0.0),
            tl.load(parts + 3 * row + place, mask=exists, other=0.0),
            tl.load(parts + 4 * row + place, mask=exists, other=0.0),
        )  # fmt: skip
    n, squares, mean, low, m2 = _gathered(n, squares, mean, low, m2, False)
    inside = at < channels
    if DECIDE:
        _settle(
            n, squares, mean, low, m2, at, inside, group, gamma, beta, running_mean, running_var, running_std,
            batches, r_max, d_max, r_max_at, d_max_at, kept, counts, enough_at, channels, groups, eps, momentum,
            WEIGHTED, RENORM, UPDATE, SKIP,
        )  # fmt: skip
    else:
        place, row = kept + group.to(tl.int64) * channels + at, groups.to(tl.int64) * channels
        tl.store(place, mean, mask=inside)
        tl.store(place + row, low, mask=inside)
        tl.store(place + 5 * row, m2, mask=inside)
        if WEIGHTED:
            head = inside & (at == 0)
            tl.store(counts + group + 0 * at, n, mask=head)
            tl.store(counts + groups + group + 0 * at, squares, mask=head)


@triton.jit
def _rows_of(program, blocks, steps, size, rows, groups, per_group, ROWS: tl.constexpr):
    """A program of an elementwise kernel: its block, group, and rows. The last program first: its rows are in cache."""
    program = tl.num_programs(0) - 1 - program
    block, part = program % blocks, program // blocks
    group = part // per_group
    first, end = _span(group, size, rows, groups)
    first += (part % per_group).to(tl.int64) * (steps * ROWS)
    stop = first + steps * ROWS
    return block, group, first, tl.where(stop < end, stop, end)


@triton.jit(do_not_specialize=["size", "rows", "channels", "groups", "blocks", "steps", "per_group"])
def apply(
    x, w, z, y, gamma, beta, running_mean, running_var, running_std, means, scales, shifts, kept, eps,
    size, rows, columns, positions, channels, groups, blocks, steps, per_group,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, ACT: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """Normalise by given coefficients or, where `means` is None, by the running statistics (and write these down)."""
    block, group, first, end = _rows_of(tl.program_id(0), blocks, steps, size, rows, groups, per_group, ROWS)
    columns = _aligned(columns, UNIT)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    known, at = column < columns, column // positions
    if means is None:
        mean, inv_std = _population(at, known, running_mean, running_var, running_std, eps)
        nothing = (at * 0).to(tl.float32)
        scale, shift = _coefficients(mean, nothing, inv_std, nothing + 1.0, nothing, gamma, beta, at, known)
        if kept is not None:
            head = known & (first + column % positions == 0)
            tl.store(kept + at, mean, mask=head)
            tl.store(kept + channels + at, inv_std, mask=head)
            tl.store(kept + 2 * channels + at, scale, mask=head)
            tl.store(kept + 3 * channels + at, shift, mask=head)
    else:
        mean = _given(at, known, group, channels, means)
        scale = _given(at, known, group, channels, scales)
        shift = _given(at, known, group, channels, shifts)
    for start in range(0, steps):
        row = first + start * ROWS + tl.arange(0, ROWS)[:, None]
        value, _, valid, inside = _load(x, w, row, column[None, :], end, columns, columns, positions, POLICY)
        _emit(
            value, valid, inside, row, column[None, :], columns, z, y, mean[None, :], scale[None, :], shift[None, :],
            ACT, POLICY,
        )  # fmt: skip


@triton.jit(do_not_specialize=["size", "rows", "channels", "groups", "splits", "blocks", "width"])
def reduce_parts(
    g, x, w, z, dz, means, scales, shifts, parts, size, rows, columns, positions, channels, groups, splits, blocks,
    width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, PLANES: tl.constexpr, ACT: tl.constexpr,
    POLICY: tl.constexpr,
):  # fmt: skip
    """Σg and Σg·(x − mean) of every part, (2, groups, splits, width); the residual's gradient on the way, if asked."""
    program = tl.program_id(0)
    block, split, group = program % blocks, program // blocks % splits, program // blocks // splits
    columns = _aligned(columns, UNIT)
    if PLANES:
        positions = _aligned(positions, UNIT)
    first, end = _span(group, size, rows, groups)
    left, right, chunks, at = _columns(block, columns, positions, COLUMNS, PLANES)
    start, stop = _part(first, end, chunks, split, splits, ROWS)
    channel, known = (at, at < channels) if PLANES else (at // positions, at < columns)
    mean = _across(_given(channel, known, group, channels, means), PLANES)
    scale = _across(_given(channel, known, group, channels, scales), PLANES)
    shift = _across(_given(channel, known, group, channels, shifts), PLANES)
    plain = tl.zeros((ROWS, COLUMNS), tl.float32)
    moment = plain
    for tile in range(start, stop):
        row, column = _at(tile, chunks, first, left, ROWS, COLUMNS)
        value, _, valid, inside = _load(x, w, row, column, end, right, columns, positions, POLICY)
        grad = _incoming(g, value, valid, row, column, columns, z, mean, scale, shift, ACT, POLICY)
        plain += grad
        moment += grad * (value - mean)
        if dz is not None:
            tl.store(
                dz + row * columns + column, grad.to(dz.dtype.element_ty), mask=inside, eviction_policy=POLICY
            )
    plain, moment = _sum(plain, PLANES), _sum(moment, PLANES)
    place = parts + (group * splits + split).to(tl.int64) * width + at
    tl.store(place, plain, mask=at < width)
    tl.store(place + groups.to(tl.int64) * splits * width, moment, mask=at < width)


@triton.jit(do_not_specialize=["splits", "width", "channels", "groups"])
def settle_sums(
    parts, low, inv_std, r, d, scales, count, counts, by_batch, grads, splits, width, entries, channels, groups,
    PARTS: tl.constexpr, CHANNELS: tl.constexpr, DECIDE: tl.constexpr, BY_BATCH: tl.constexpr,
):  # fmt: skip
    """Add all parts of a channel and settle its gradients; without DECIDE, only write the two sums down."""
    at, group = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS), tl.program_id(1)
    row = groups.to(tl.int64) * splits * width
    number = splits * entries
    plain = tl.zeros((PARTS, CHANNELS), tl.float32)
    moment = plain
    for start in range(0, number, PARTS):
        part = start + tl.arange(0, PARTS)[:, None]
        place, exists = _share_of(part, at[None, :], number, splits, width, entries, group, channels)
        plain += tl.load(parts + place, mask=exists, other=0.0)
        moment += tl.load(parts + row + place, mask=exists, other=0.0)
    plain, moment = tl.sum(plain, 0), tl.sum(moment, 0)
    inside = at < channels
    if DECIDE:
        scale = _given(at, inside, group, channels, scales)
        _settle_back(
            plain, moment, at, inside, group, low, inv_std, r, d, scale, count, counts, by_batch, grads, channels,
            groups, BY_BATCH,
        )  # fmt: skip
    else:
        place = grads + group.to(tl.int64) * channels + at
        tl.store(place, plain, mask=inside)
        tl.store(place + groups.to(tl.int64) * channels, moment, mask=inside)


@triton.jit(do_not_specialize=["size", "rows", "channels", "groups", "blocks", "steps", "per_group"])
def gradient(
    g, x, w, z, dx, dz, means, scales, shifts, offsets, slopes,
    size, rows, columns, positions, channels, groups, blocks, steps, per_group,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, ACT: tl.constexpr, BY_BATCH: tl.constexpr,
    POLICY: tl.constexpr,
):  # fmt: skip
    """dx and the residual's gradient, elementwise."""
    block, group, first, end = _rows_of(tl.program_id(0), blocks, steps, size, rows, groups, per_group, ROWS)
    columns = _aligned(columns, UNIT)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    known, at = column < columns, column // positions
    mean = _given(at, known, group, channels, means)[None, :]
    scale = _given(at, known, group, channels, scales)[None, :]
    shift = _given(at, known, group, channels, shifts)[None, :]
    offset = _given(at, known, group, channels, offsets)[None, :]
    slope = _given(at, known, group, channels, slopes)[None, :]
    column = column[None, :]
    for start in range(0, steps):
        row = first + start * ROWS + tl.arange(0, ROWS)[:, None]
        value, weight, valid, inside = _load(x, w, row, column, end, columns, columns, positions, POLICY)
        grad = _incoming(g, value, valid, row, column, columns, z, mean, scale, shift, ACT, POLICY)
        _return(
            grad, value, weight, inside, row, column, columns, dx, dz, mean, scale, offset, slope,
            BY_BATCH, w is not None, POLICY,
        )  # fmt: skip
