"""Kernels of the forward: all at once, or moments of parts, their settling, and the output."""
# mypy: ignore-errors
# The bodies are Triton's language, not Python's: their types exist on the device only.

from __future__ import annotations

import triton
import triton.language as tl

from normsmith.ops.gpu.elements import write_output, write_passed
from normsmith.ops.gpu.settle import (
    coefficients_of,
    gather_lanes,
    join,
    measure_tiles,
    moments_of,
    population_of,
    population_where,
    settle_forward,
)
from normsmith.ops.gpu.tiles import (
    aligned,
    block_and_group,
    let_next_begin,
    load_tile,
    long,
    over_rows,
    part_of,
    part_program,
    parts_of,
    program_rows,
    share_of,
    tile_at,
    values_at,
    values_between,
    wait_for_last,
)


@triton.jit(do_not_specialize=["size", "rows", "channels", "groups", "blocks"])
def forward_at_once(
    x, w, z, y, bits, gamma, beta, running_mean, running_var, running_std, batches, r_max, d_max, r_max_at, d_max_at,
    kept, counts, enough_at, size, rows, columns, positions, channels, groups, blocks, eps, momentum,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, PLANES: tl.constexpr, HELD: tl.constexpr,
    ACT: tl.constexpr, RENORM: tl.constexpr, UPDATE: tl.constexpr, SKIP: tl.constexpr, STAGES: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """Moments, decisions, running statistics and output of one block of channels and one group."""
    block, group = block_and_group(blocks)
    columns, positions, first, end, left, right, chunks, at = share_of(
        block, group, size, rows, columns, positions, groups, COLUMNS, UNIT, PLANES
    )
    tiles = tl.cdiv(end - first, ROWS) * chunks
    number = values_between(at, 0, tiles, first, end, left, right, chunks, ROWS, COLUMNS, PLANES)
    if HELD:
        row, column = tile_at(block * 0, 1, first, left, ROWS, COLUMNS)
        value, weight, valid, inside = load_tile(
            x, w, row, column, end, right, columns, positions, "evict_first"
        )
        n, squares, mean, low, m2 = moments_of(value, weight, valid, number, w is not None, PLANES)
    else:
        n, squares, mean, low, m2 = measure_tiles(
            x, w, first, end, left, right, chunks, 0, tiles, number, columns, positions,
            ROWS, COLUMNS, PLANES, "evict_last", STAGES, UNROLL,
        )  # fmt: skip
    inside_channels = at < channels
    running, deviation = population_where(
        at, inside_channels, running_mean, running_var, running_std, eps, RENORM or w is not None
    )
    mean, scale, shift = settle_forward(
        n, squares, mean, low, m2, at, inside_channels, inside_channels, group, running, deviation, gamma, beta,
        running_mean, running_var, running_std, batches, r_max, d_max, r_max_at, d_max_at, kept, counts, enough_at,
        channels, groups, eps, momentum, w is not None, RENORM, UPDATE, SKIP,
    )  # fmt: skip
    mean, scale, shift = over_rows(mean, PLANES), over_rows(scale, PLANES), over_rows(shift, PLANES)
    if HELD:
        before = write_output(value, valid, inside, row, column, columns, z, y, mean, scale, shift, ACT, "")
        write_passed(bits, before, valid, row, column, end, right, columns, COLUMNS)
    else:
        for step in range(0, tiles):
            row, column = tile_at(tiles - 1 - step, chunks, first, left, ROWS, COLUMNS)
            value, _, valid, inside = load_tile(
                x, w, row, column, end, right, columns, positions, "evict_first"
            )
            before = write_output(
                value, valid, inside, row, column, columns, z, y, mean, scale, shift, ACT, "evict_first"
            )
            write_passed(bits, before, valid, row, column, end, right, columns, COLUMNS)


@triton.jit(do_not_specialize=["size", "rows", "groups", "splits", "blocks", "width"])
def measure_parts(
    x, w, parts, size, rows, columns, positions, groups, splits, blocks, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, PLANES: tl.constexpr, POLICY: tl.constexpr,
    STAGES: tl.constexpr, UNROLL: tl.constexpr, CHAINED: tl.constexpr,
):  # fmt: skip
    """Moments of every part: `parts` has the shape (5, groups, splits, width), or 4 if nothing is weighed."""
    let_next_begin(CHAINED)
    block, split, group = part_program(blocks, splits)
    columns, positions, first, end, left, right, chunks, at = share_of(
        block, group, size, rows, columns, positions, groups, COLUMNS, UNIT, PLANES
    )
    start, stop = part_of(first, end, chunks, split, splits, ROWS)
    number = values_between(at, start, stop, first, end, left, right, chunks, ROWS, COLUMNS, PLANES)
    n, squares, mean, low, m2 = measure_tiles(
        x, w, first, end, left, right, chunks, start, stop, number, columns, positions, ROWS, COLUMNS, PLANES, POLICY,
        STAGES, UNROLL,
    )  # fmt: skip
    place = parts + (group * splits + split).to(tl.int64) * width + at
    row, inside = long(groups) * splits * width, at < width
    tl.store(place, n, mask=inside)
    tl.store(place + row, mean, mask=inside)
    tl.store(place + 2 * row, low, mask=inside)
    tl.store(place + 3 * row, m2, mask=inside)
    if w is not None:
        tl.store(place + 4 * row, squares, mask=inside)


@triton.jit(do_not_specialize=["splits", "width", "channels", "groups"])
def settle_parts(
    parts, gamma, beta, running_mean, running_var, running_std, batches, r_max, d_max, r_max_at, d_max_at,
    kept, counts, enough_at, splits, width, entries, channels, groups, eps, momentum,
    PARTS: tl.constexpr, CHANNELS: tl.constexpr, WEIGHTED: tl.constexpr, DECIDE: tl.constexpr,
    RENORM: tl.constexpr, UPDATE: tl.constexpr, SKIP: tl.constexpr, CHAINED: tl.constexpr,
):  # fmt: skip
    """Merge all parts of a channel and settle it; without DECIDE, only write its moments down."""
    let_next_begin(CHAINED)
    wait_for_last(CHAINED)
    block, group = block_and_group(tl.cdiv(channels, CHANNELS))
    at = block * CHANNELS + tl.arange(0, CHANNELS)
    row = long(groups) * splits * width
    number = splits * entries
    n = tl.zeros((PARTS, CHANNELS), tl.float32)
    squares, mean, low, m2 = n, n, n, n
    for start in range(0, number, PARTS):
        part = start + tl.arange(0, PARTS)[:, None]
        place, exists = parts_of(part, at[None, :], number, splits, width, entries, group, channels)
        if WEIGHTED:
            squares += tl.load(parts + 4 * row + place, mask=exists, other=0.0)
        n, mean, low, m2 = join(
            n, mean, low, m2,
            tl.load(parts + place, mask=exists, other=0.0),
            tl.load(parts + row + place, mask=exists, other=0.0),
            tl.load(parts + 2 * row + place, mask=exists, other=0.0),
            tl.load(parts + 3 * row + place, mask=exists, other=0.0),
        )  # fmt: skip
    n, squares, mean, low, m2 = gather_lanes(n, squares, mean, low, m2, False)
    if not WEIGHTED:
        squares = n
    inside = at < channels
    if DECIDE:
        running, deviation = population_where(
            at, inside, running_mean, running_var, running_std, eps, RENORM or WEIGHTED
        )
        settle_forward(
            n, squares, mean, low, m2, at, inside, inside, group, running, deviation, gamma, beta, running_mean,
            running_var, running_std, batches, r_max, d_max, r_max_at, d_max_at, kept, counts, enough_at, channels,
            groups, eps, momentum, WEIGHTED, RENORM, UPDATE, SKIP,
        )  # fmt: skip
    else:
        place, row = kept + group.to(tl.int64) * channels + at, long(groups) * channels
        tl.store(place + 5 * row, m2, mask=inside)
        tl.store(place + 8 * row, mean, mask=inside)
        tl.store(place + 9 * row, low, mask=inside)
        if WEIGHTED:
            head = inside & (at == 0)
            tl.store(counts + group + 0 * at, n, mask=head)
            tl.store(counts + groups + group + 0 * at, squares, mask=head)


@triton.jit(do_not_specialize=["size", "rows", "channels", "groups", "blocks", "steps", "per_group"])
def apply(
    x, w, z, y, bits, gamma, beta, running_mean, running_var, running_std, means, scales, shifts, kept, eps,
    size, rows, columns, positions, channels, groups, blocks, steps, per_group,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, ACT: tl.constexpr, POLICY: tl.constexpr,
    CHAINED: tl.constexpr,
):  # fmt: skip
    """Normalise by given coefficients or, where `means` is None, by the running statistics (and write these down)."""
    wait_for_last(CHAINED)
    block, group, first, end = program_rows(
        tl.program_id(0), blocks, steps, size, rows, groups, per_group, ROWS
    )
    columns = aligned(columns, UNIT)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    known, at = column < columns, column // positions
    if means is None:
        mean, inv_std = population_of(at, known, running_mean, running_var, running_std, eps)
        nothing = (at * 0).to(tl.float32)
        scale, shift = coefficients_of(mean, nothing, inv_std, nothing + 1.0, nothing, gamma, beta, at, known)
        if kept is not None:
            head = known & (first + column % positions == 0)
            tl.store(kept + at, mean, mask=head)
            tl.store(kept + channels + at, inv_std, mask=head)
            tl.store(kept + 2 * channels + at, scale, mask=head)
            tl.store(kept + 3 * channels + at, shift, mask=head)
    else:
        mean = values_at(at, known, group, channels, means)
        scale = values_at(at, known, group, channels, scales)
        shift = values_at(at, known, group, channels, shifts)
    column, mean, scale, shift = column[None, :], mean[None, :], scale[None, :], shift[None, :]
    for start in range(0, steps):
        row = first + start * ROWS + tl.arange(0, ROWS)[:, None]
        value, _, valid, inside = load_tile(x, w, row, column, end, columns, columns, positions, POLICY)
        before = write_output(
            value, valid, inside, row, column, columns, z, y, mean, scale, shift, ACT, POLICY
        )
        write_passed(bits, before, valid, row, column, end, columns, columns, COLUMNS)
