"""What all Triton kernels of batch norm share: every memory layout is one matrix, which programs read by tiles.

A batch is a matrix of `rows` × `columns` with columns contiguous; column k belongs to channel k // positions:

    (N, C), channels_last    rows = N·S    columns = C      positions = 1
    contiguous (N, C, *S)    rows = N      columns = C·S    positions = S

A program works on tiles of ROWS × COLUMNS. With PLANES it serves one channel (a scalar), otherwise COLUMNS neighbouring
columns, each on its own. Groups (ghost batches) are runs of `size` rows; the last one takes what remains. `w` (None, or
float32 of shape (samples, positions)) is how much an element counts, and −1 where it is not valid: padding may hold
anything, NaN too. Sums run in float32, lane by lane, and are merged by Chan's formula in a fixed order: deterministic.
"""
# mypy: ignore-errors
# The bodies are Triton's language, not Python's: their types exist on the device only.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def let_next_begin(CHAINED: tl.constexpr):
    """The next launch may begin, as far as there is room for it, and wait."""
    if CHAINED:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait_for_last(CHAINED: tl.constexpr):
    """Wait until the launch before this one has ended: what it wrote can then be read."""
    if CHAINED:
        tl.extra.cuda.gdc_wait()


@triton.jit
def long(number):
    """A number in 64 bits, also one that is a constant: Inductor makes constants of sizes that are 1."""
    return tl.cast(number, tl.int64)


@triton.jit
def single(number):
    """A number in float32: Triton passes numbers so, but Inductor passes them in float64."""
    return tl.cast(number, tl.float32)


@triton.jit
def group_rows(group, size, rows, groups):
    """First row of a group, and the row after its last."""
    first = group.to(tl.int64) * size
    return first, tl.where(group == groups - 1, rows, first + size)


@triton.jit
def aligned(number, UNIT: tl.constexpr):
    """The same number, which is a multiple of UNIT, written so that the compiler sees that and uses wide loads."""
    return number // UNIT * UNIT


@triton.jit
def columns_of(block, columns, positions, COLUMNS: tl.constexpr, PLANES: tl.constexpr):
    """The columns of a block: first, end, how many chunks of COLUMNS, and its channel or its columns."""
    if PLANES:
        left, at = block * positions, block
        right, chunks = left + positions, tl.cdiv(positions, COLUMNS)
    else:
        left = block * COLUMNS
        right, chunks, at = columns, 1, left + tl.arange(0, COLUMNS)
    return left, right, chunks, at


@triton.jit
def share_of(
    block, group, size, rows, columns, positions, groups,
    COLUMNS: tl.constexpr, UNIT: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    """What a program of the first sweep serves: rows of a group and columns of a block, in an aligned matrix."""
    columns = aligned(columns, UNIT)
    if PLANES:
        positions = aligned(positions, UNIT)
    first, end = group_rows(group, size, rows, groups)
    left, right, chunks, at = columns_of(block, columns, positions, COLUMNS, PLANES)
    return columns, positions, first, end, left, right, chunks, at


@triton.jit
def block_and_group(blocks):
    """A program's block and group, in one dimension: the others end at 65535 programs."""
    program = tl.program_id(0)
    return program % blocks, program // blocks


@triton.jit
def part_program(blocks, splits):
    """A program of a split reduction: its block, split and group."""
    program = tl.program_id(0)
    return program % blocks, program // blocks % splits, program // blocks // splits


@triton.jit
def over_rows(values, PLANES: tl.constexpr):
    """Lay per-column values out over the rows of a tile; a plane's are scalars."""
    if not PLANES:
        values = values[None, :]
    return values


@triton.jit
def tile_at(tile, chunks, first, left, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows (64 bits: batches may have more than 2³¹ elements) and columns of a tile."""
    tile = first * 0 + tile
    row = first + tile // chunks * ROWS + tl.arange(0, ROWS)[:, None]
    column = left + (tile % chunks).to(tl.int32) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return row, column


@triton.jit
def load_tile(x, w, row, column, end, right, columns, positions, POLICY: tl.constexpr):
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
def octets_at(row, column, end, right, columns, COLUMNS: tl.constexpr):
    """Where the bits of a tile lie, eight columns a byte, and which bytes exist. Tiles begin at multiples of eight."""
    octet = tl.max(tl.reshape(column, (1, COLUMNS // 8, 8)), 2) // 8
    return row * (columns // 8) + octet, (row < end) & (octet * 8 < right)


@triton.jit
def write_bits(bits, value, row, column, end, right, columns, COLUMNS: tl.constexpr):
    """One bit for every element of a tile."""
    place, exists = octets_at(row, column, end, right, columns, COLUMNS)
    lanes = tl.reshape(value.to(tl.int32), (value.shape[0], COLUMNS // 8, 8))
    octet = tl.sum(lanes << tl.arange(0, 8)[None, None, :], 2)
    tl.store(bits + place, octet.to(tl.uint8), mask=exists)


@triton.jit
def read_bits(bits, row, column, end, right, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The bits of a tile as truth values."""
    place, exists = octets_at(row, column, end, right, columns, COLUMNS)
    octet = tl.load(bits + place, mask=exists, other=0).to(tl.int32)
    lanes = (octet[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.reshape(lanes, (ROWS, COLUMNS)) > 0


@triton.jit
def nonzero(count):
    """The count, or 1 where it is 0, to divide by."""
    return tl.where(count > 0, count, 1.0)


@triton.jit
def summed(tile, PLANES: tl.constexpr):
    """Sum a tile over its rows or, in a plane, over all of it: in one step, whose threads exchange one number each."""
    return tl.sum(tile) if PLANES else tl.sum(tile, 0)


@triton.jit
def values_at(at, inside, group, channels, values):
    """A (groups, channels) tensor at the channels of a program; None stands for 0."""
    result = (at * 0).to(tl.float32)
    if values is not None:
        result = tl.load(values + group.to(tl.int64) * channels + at, mask=inside, other=0.0).to(tl.float32)
    return result


@triton.jit
def values_before(
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
def values_between(
    at, start, stop, first, end, left, right, chunks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    """How many values per channel lie in the tiles from start to stop."""
    number = values_before(stop, first, end, left, right, chunks, ROWS, COLUMNS, PLANES)
    number -= values_before(start, first, end, left, right, chunks, ROWS, COLUMNS, PLANES)
    return (at * 0).to(tl.float32) + number.to(tl.float32)


@triton.jit
def part_of(first, end, chunks, split, splits, ROWS: tl.constexpr):
    """The tiles of one split: from, to."""
    tiles = tl.cdiv(end - first, ROWS) * chunks
    return tiles * split // splits, tiles * (split + 1) // splits


@triton.jit
def parts_of(part, channel, number, splits, width, entries, group, channels):
    """Where a channel's parts lie in a workspace, and which of them exist."""
    place = (group * splits + part // entries).to(tl.int64) * width + channel * entries + part % entries
    return place, (part < number) & (channel < channels)


@triton.jit
def program_rows(program, blocks, steps, size, rows, groups, per_group, ROWS: tl.constexpr):
    """A program of an elementwise kernel: its block, group, and rows. The last program first: its rows are in cache."""
    program = tl.num_programs(0) - 1 - program
    block, part = program % blocks, program // blocks
    group = part // per_group
    first, end = group_rows(group, size, rows, groups)
    first += (part % per_group).to(tl.int64) * (steps * ROWS)
    stop = first + steps * ROWS
    return block, group, first, tl.where(stop < end, stop, end)
