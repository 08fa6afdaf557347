"""Kernels of the backward: all at once, or sums of parts, their settling, and the gradients."""
# mypy: ignore-errors
# The bodies are Triton's language, not Python's: their types exist on the device only.

from __future__ import annotations

import triton
import triton.language as tl

from normsmith.ops.gpu.elements import gradient_before, write_gradients
from normsmith.ops.gpu.settle import settle_backward
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
    summed,
    tile_at,
    values_at,
    wait_for_last,
)


@triton.jit(do_not_specialize=["size", "rows", "channels", "groups", "blocks"])
def backward_at_once(
    g, x, w, z, bits, dx, dz, means, low, inv_std, r, d, scales, shifts, count, counts, by_batch, grads,
    size, rows, columns, positions, channels, groups, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, PLANES: tl.constexpr, HELD: tl.constexpr,
    ACT: tl.constexpr, BY_BATCH: tl.constexpr, STAGES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """dx, the residual's gradient, dγ and dβ of one block of channels and one group."""
    block, group = block_and_group(blocks)
    columns, positions, first, end, left, right, chunks, at = share_of(
        block, group, size, rows, columns, positions, groups, COLUMNS, UNIT, PLANES
    )
    known = at < channels
    plane_scale = values_at(at, known, group, channels, scales)
    mean, scale = (
        over_rows(values_at(at, known, group, channels, means), PLANES),
        over_rows(plane_scale, PLANES),
    )
    shift = over_rows(values_at(at, known, group, channels, shifts), PLANES)
    tiles = tl.cdiv(end - first, ROWS) * chunks
    if HELD:
        row, column = tile_at(block * 0, 1, first, left, ROWS, COLUMNS)
        value, weight, valid, inside = load_tile(
            x, w, row, column, end, right, columns, positions, "evict_first"
        )
        grad = gradient_before(
            g, value, valid, row, column, end, right, columns, z, bits, mean, scale, shift,
            ROWS, COLUMNS, ACT, "evict_first",
        )  # fmt: skip
        plain, moment = grad, grad * (value - mean)
    else:
        plain = tl.zeros((ROWS, COLUMNS), tl.float32)
        moment = plain
        for tile in tl.range(0, tiles, num_stages=STAGES, loop_unroll_factor=UNROLL):
            row, column = tile_at(tile, chunks, first, left, ROWS, COLUMNS)
            value, _, valid, _ = load_tile(x, w, row, column, end, right, columns, positions, "evict_last")
            grad = gradient_before(
                g, value, valid, row, column, end, right, columns, z, bits, mean, scale, shift,
                ROWS, COLUMNS, ACT, "evict_last",
            )  # fmt: skip
            plain += grad
            moment += grad * (value - mean)
    plain, moment = summed(plain, PLANES), summed(moment, PLANES)
    offset, slope = settle_backward(
        plain, moment, at, known, known, group, low, inv_std, r, d, plane_scale, count, counts, by_batch, grads,
        channels, groups, BY_BATCH,
    )  # fmt: skip
    if dx is not None:
        offset, slope = over_rows(offset, PLANES), over_rows(slope, PLANES)
        if HELD:
            write_gradients(
                grad, value, weight, inside, row, column, columns, dx, dz, mean, scale, offset, slope,
                BY_BATCH, w is not None, "",
            )  # fmt: skip
        else:
            for step in range(0, tiles):
                row, column = tile_at(tiles - 1 - step, chunks, first, left, ROWS, COLUMNS)
                value, weight, valid, inside = load_tile(
                    x, w, row, column, end, right, columns, positions, "evict_first"
                )  # fmt: skip
                grad = gradient_before(
                    g, value, valid, row, column, end, right, columns, z, bits, mean, scale, shift,
                    ROWS, COLUMNS, ACT, "evict_first",
                )  # fmt: skip
                write_gradients(
                    grad, value, weight, inside, row, column, columns, dx, dz, mean, scale, offset, slope,
                    BY_BATCH, w is not None, "evict_first",
                )  # fmt: skip


@triton.jit(do_not_specialize=["size", "rows", "channels", "groups", "splits", "blocks", "width"])
def reduce_parts(
    g, x, w, z, bits, dz, means, scales, shifts, parts, size, rows, columns, positions, channels, groups, splits,
    blocks, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, PLANES: tl.constexpr, ACT: tl.constexpr,
    POLICY: tl.constexpr, STAGES: tl.constexpr, UNROLL: tl.constexpr, CHAINED: tl.constexpr,
):  # fmt: skip
    """Σg and Σg·(x − mean) of every part, (2, groups, splits, width); and the residual's gradient, if asked for."""
    let_next_begin(CHAINED)
    block, split, group = part_program(blocks, splits)
    columns, positions, first, end, left, right, chunks, at = share_of(
        block, group, size, rows, columns, positions, groups, COLUMNS, UNIT, PLANES
    )
    start, stop = part_of(first, end, chunks, split, splits, ROWS)
    channel, known = (at, at < channels) if PLANES else (at // positions, at < columns)
    mean = over_rows(values_at(channel, known, group, channels, means), PLANES)
    scale = over_rows(values_at(channel, known, group, channels, scales), PLANES)
    shift = over_rows(values_at(channel, known, group, channels, shifts), PLANES)
    plain = tl.zeros((ROWS, COLUMNS), tl.float32)
    moment = plain
    for tile in tl.range(start, stop, num_stages=STAGES, loop_unroll_factor=UNROLL):
        row, column = tile_at(tile, chunks, first, left, ROWS, COLUMNS)
        value, _, valid, inside = load_tile(x, w, row, column, end, right, columns, positions, POLICY)
        grad = gradient_before(
            g, value, valid, row, column, end, right, columns, z, bits, mean, scale, shift,
            ROWS, COLUMNS, ACT, POLICY,
        )  # fmt: skip
        plain += grad
        moment += grad * (value - mean)
        if dz is not None:
            tl.store(
                dz + row * columns + column, grad.to(dz.dtype.element_ty), mask=inside, eviction_policy=POLICY
            )
    plain, moment = summed(plain, PLANES), summed(moment, PLANES)
    place = parts + (group * splits + split).to(tl.int64) * width + at
    tl.store(place, plain, mask=at < width)
    tl.store(place + long(groups) * splits * width, moment, mask=at < width)


@triton.jit(do_not_specialize=["splits", "width", "channels", "groups"])
def settle_sums(
    parts, low, inv_std, r, d, scales, count, counts, by_batch, grads, splits, width, entries, channels, groups,
    PARTS: tl.constexpr, CHANNELS: tl.constexpr, DECIDE: tl.constexpr, BY_BATCH: tl.constexpr,
    CHAINED: tl.constexpr,
):  # fmt: skip
    """Add all parts of a channel and settle its gradients; without DECIDE, only write the two sums down."""
    let_next_begin(CHAINED)
    wait_for_last(CHAINED)
    block, group = block_and_group(tl.cdiv(channels, CHANNELS))
    at = block * CHANNELS + tl.arange(0, CHANNELS)
    row = long(groups) * splits * width
    number = splits * entries
    plain = tl.zeros((PARTS, CHANNELS), tl.float32)
    moment = plain
    for start in range(0, number, PARTS):
        part = start + tl.arange(0, PARTS)[:, None]
        place, exists = parts_of(part, at[None, :], number, splits, width, entries, group, channels)
        plain += tl.load(parts + place, mask=exists, other=0.0)
        moment += tl.load(parts + row + place, mask=exists, other=0.0)
    plain, moment = tl.sum(plain, 0), tl.sum(moment, 0)
    inside = at < channels
    if DECIDE:
        scale = values_at(at, inside, group, channels, scales)
        settle_backward(
            plain, moment, at, inside, inside, group, low, inv_std, r, d, scale, count, counts, by_batch, grads,
            channels, groups, BY_BATCH,
        )  # fmt: skip
    else:
        place = grads + group.to(tl.int64) * channels + at
        tl.store(place, plain, mask=inside)
        tl.store(place + long(groups) * channels, moment, mask=inside)


@triton.jit(do_not_specialize=["size", "rows", "channels", "groups", "blocks", "steps", "per_group"])
def gradient(
    g, x, w, z, bits, dx, dz, means, scales, shifts, offsets, slopes,
    size, rows, columns, positions, channels, groups, blocks, steps, per_group,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, ACT: tl.constexpr, BY_BATCH: tl.constexpr,
    POLICY: tl.constexpr, CHAINED: tl.constexpr,
):  # fmt: skip
    """dx and the residual's gradient, elementwise."""
    wait_for_last(CHAINED)
    block, group, first, end = program_rows(
        tl.program_id(0), blocks, steps, size, rows, groups, per_group, ROWS
    )
    columns = aligned(columns, UNIT)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    known, at = column < columns, column // positions
    mean = values_at(at, known, group, channels, means)[None, :]
    scale = values_at(at, known, group, channels, scales)[None, :]
    shift = values_at(at, known, group, channels, shifts)[None, :]
    offset = values_at(at, known, group, channels, offsets)[None, :]
    slope = values_at(at, known, group, channels, slopes)[None, :]
    column = column[None, :]
    for start in range(0, steps):
        row = first + start * ROWS + tl.arange(0, ROWS)[:, None]
        value, weight, valid, inside = load_tile(x, w, row, column, end, columns, columns, positions, POLICY)
        grad = gradient_before(
            g, value, valid, row, column, end, columns, columns, z, bits, mean, scale, shift,
            ROWS, COLUMNS, ACT, POLICY,
        )  # fmt: skip
        write_gradients(
            grad, value, weight, inside, row, column, columns, dx, dz, mean, scale, offset, slope,
            BY_BATCH, w is not None, POLICY,
        )  # fmt: skip
