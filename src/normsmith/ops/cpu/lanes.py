"""What numba lacks: raw memory, stack buffers, half precision, non-temporal stores, bit masks of vectors.

Addresses are integers. `like` is a numpy scalar type that stands for a tensor's dtype: float32, float64 and int64
are themselves, uint16 is bfloat16 and int16 is float16. `work` is the type of numbers to work with: float64 for
float64, else float32. Most of this is written as intrinsics: numba compiles them in no time.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be reordered and contracted; NaN and inf must come through."""

part = njit(fastmath=FAST, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Compiles a function that kernels call. Each costs a tenth of a second at a user's first step: keep them few."""

_VECTOR = 16
"""Elements whose signs are packed at a time."""
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_F16, _F32, _F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()

_MEMORY = {types.float32: _F32, types.float64: _F64, types.int64: _I64, types.uint16: _I16, types.int16: _I16}
_NUMBER = {
    types.float32: types.float32,
    types.float64: types.float64,
    types.int64: types.int64,
    types.uint16: types.float32,
    types.int16: types.float32,
}


def _element(builder: Any, address: Any, i: Any, kind: Any) -> Any:
    return builder.gep(builder.inttoptr(address, kind.as_pointer()), [i], inbounds=True)


@intrinsic
def load(typing: Any, address: Any, i: Any, like: Any) -> Any:
    """The i-th element at an address, as a number to work with."""
    stored = like.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(_element(builder, arguments[0], arguments[1], _MEMORY[stored]))
        if stored == types.uint16:
            return builder.bitcast(builder.shl(builder.zext(value, _I32), _I32(16)), _F32)
        if stored == types.int16:
            return builder.fpext(builder.bitcast(value, _F16), _F32)
        return value

    return _NUMBER[stored](types.int64, types.int64, like), generate


@intrinsic
def store(typing: Any, address: Any, i: Any, value: Any, like: Any) -> Any:
    """Write the i-th element at an address, rounded to nearest even; a NaN stays one."""
    stored = like.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, i, value = arguments[:3]
        if stored == types.uint16:
            value = _to_bfloat16(builder, value)
        elif stored == types.int16:
            value = builder.bitcast(builder.fptrunc(value, _F16), _I16)
        builder.store(value, _element(builder, address, i, _MEMORY[stored]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, _NUMBER[stored], like), generate


def _to_bfloat16(builder: Any, value: Any) -> Any:
    bits = builder.bitcast(value, _I32)
    odd = builder.and_(builder.lshr(bits, _I32(16)), _I32(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, _I32(0x7FFF))), _I32(16))
    kept = builder.select(builder.fcmp_unordered("uno", value, value), _I32(0x7FC0), rounded)
    return builder.trunc(kept, _I16)


@intrinsic(prefer_literal=True)
def coefficient(typing: Any, coefficients: Any, which: Any, i: Any, work: Any) -> Any:
    """The i-th number of a table, or the one number of a tuple that serves all: MEAN, SCALE, … say which."""
    if not isinstance(which, types.IntegerLiteral):
        return None
    number = which.literal_value
    tabled = not isinstance(coefficients, types.UniTuple)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not tabled:
            return builder.extract_value(arguments[0], number)
        at = builder.add(arguments[2], _I64(number * TABLE))
        return builder.load(_element(builder, arguments[0], at, _MEMORY[work.dtype]))

    kind = types.int64 if tabled else coefficients
    return work.dtype(kind, which, types.int64, work), generate


@intrinsic
def size_of(typing: Any, like: Any) -> Any:
    """Bytes of an element."""
    size = like.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _I64(size)

    return types.int64(like), generate


@intrinsic
def is_work(typing: Any, like: Any, work: Any) -> Any:
    """Whether elements are numbers to work with as they are; known when a kernel is compiled."""
    same = like.dtype == work.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.IntType(1)(same)

    return types.boolean(like, work), generate


def _stack(size: int) -> Any:
    @intrinsic
    def allocate(typing: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            with builder.goto_entry_block():
                buffer = builder.alloca(ir.ArrayType(ir.IntType(8), size))
                buffer.align = 64
            return builder.ptrtoint(buffer, _I64)

        return types.int64(), generate

    return allocate


RUN = 1024
"""Elements that are worked on at a time, so that buffers and tables stay in the first cache."""
TABLE = RUN + 5 * _VECTOR
"""Distance of the tables of coefficients: not a power of two, whose multiples would share the cache's sets."""
stack_of_run = _stack((RUN + _VECTOR) * 8)
stack_of_tables = _stack(7 * TABLE * 8)


@intrinsic
def call_for_number(typing: Any, address: Any) -> Any:
    """Call the C function `int f(void)` at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(_I32, []).as_pointer()
        return builder.sext(builder.call(builder.inttoptr(arguments[0], function), []), _I64)

    return types.int64(types.int64), generate


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Ask for a cache line that will be read soon, into the second cache."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, _I32, _I32, _I32])
        ask = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
        builder.call(ask, [builder.inttoptr(arguments[0], cgutils.voidptr_t), _I32(0), _I32(2), _I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def stream_line(typing: Any, target: Any, source: Any) -> Any:
    """Copy 64 bytes past the caches; the target is aligned to 64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line = ir.VectorType(_I64, 8).as_pointer()
        copied = builder.load(builder.inttoptr(arguments[1], line), align=2)
        stored = builder.store(copied, builder.inttoptr(arguments[0], line), align=64)
        stored.set_metadata("nontemporal", builder.module.add_metadata([_I32(1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def fence(typing: Any) -> Any:
    """Order non-temporal stores before what follows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _vector(address: Any, like: Any, builder: Any) -> tuple[Any, Any]:
    kind = ir.VectorType(_MEMORY[like.dtype], _VECTOR)
    return builder.inttoptr(address, kind.as_pointer()), ir.Constant(kind, [0.0] * _VECTOR)


@intrinsic
def positive_bits(typing: Any, address: Any, like: Any) -> Any:
    """Which of the 16 numbers at an address are not ≤ 0 (NaN is not), one bit each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, zeros = _vector(arguments[0], like, builder)
        return builder.bitcast(builder.fcmp_unordered(">", builder.load(pointer, align=4), zeros), _I16)

    return types.uint16(types.int64, like), generate


@intrinsic
def keep_bits(typing: Any, address: Any, bits: Any, like: Any) -> Any:
    """Set those of the 16 numbers at an address to 0 whose bit is not set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, zeros = _vector(arguments[0], like, builder)
        chosen = builder.bitcast(arguments[1], ir.VectorType(ir.IntType(1), _VECTOR))
        builder.store(builder.select(chosen, builder.load(pointer, align=4), zeros), pointer, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint16, like), generate


def _wide(builder: Any, address: Any, offset: Any, like: Any, work: Any) -> Any:
    """Load 16 elements that lie `offset` bytes from an address, as numbers to work with."""
    stored = like.dtype
    kind = ir.VectorType(_MEMORY[stored], _VECTOR)
    pointer = builder.inttoptr(builder.add(address, offset), kind.as_pointer())
    value = builder.load(pointer, align=stored.bitwidth // 8)
    if stored == types.uint16:
        bits = ir.VectorType(_I32, _VECTOR)
        shifted = builder.shl(builder.zext(value, bits), ir.Constant(bits, [16] * _VECTOR))
        return builder.bitcast(shifted, ir.VectorType(_F32, _VECTOR))
    if stored == types.int16:
        half = builder.bitcast(value, ir.VectorType(_F16, _VECTOR))
        return builder.fpext(half, ir.VectorType(_F32, _VECTOR))
    return value


def _over_rows(builder: Any, rows: Any, sums: list[Any], step: Any) -> list[Any]:
    """Loop over rows with vectors that stay in registers: `step(row, sums)` gives those after a row."""
    before, body, after = builder.block, builder.append_basic_block("row"), builder.append_basic_block("rows")
    builder.cbranch(builder.icmp_signed(">", rows, _I64(0)), body, after)
    builder.position_at_end(body)
    row = builder.phi(_I64)
    row.add_incoming(_I64(0), before)
    carried = [builder.phi(value.type) for value in sums]
    found = step(row, carried)
    following = builder.add(row, _I64(1))
    row.add_incoming(following, builder.block)
    for phi, first, value in zip(carried, sums, found, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(value, builder.block)
    last = builder.block
    builder.cbranch(builder.icmp_signed("<", following, rows), body, after)
    builder.position_at_end(after)
    totals = [builder.phi(value.type) for value in sums]
    for phi, first, value in zip(totals, sums, found, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(value, last)
    return totals


def _vectors_of_table(builder: Any, tables: Any, table: int, k: Any, number: int, work: Any) -> list[Any]:
    """Addresses of 16 numbers each of a table, from its k-th on."""
    kind = ir.VectorType(_MEMORY[work.dtype], _VECTOR).as_pointer()
    size = work.dtype.bitwidth // 8
    start = builder.add(tables, builder.mul(builder.add(k, _I64(table)), _I64(size)))
    return [builder.inttoptr(builder.add(start, _I64(_VECTOR * size * v)), kind) for v in range(number)]


_SUMMED = ("reassoc", "contract", "nsz", "arcp")


def _add_columns(number: int) -> Any:
    @intrinsic
    def add(typing: Any, x: Any, stride: Any, rows: Any, tables: Any, k: Any, like: Any, work: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, stride, rows, tables, k = arguments[:5]
            around, first, second = (
                _vectors_of_table(builder, tables, table * TABLE, k, number, work) for table in range(3)
            )
            shifts = [builder.load(pointer, align=4) for pointer in around]

            def step(row: Any, sums: list[Any]) -> list[Any]:
                at = builder.add(x, builder.mul(row, stride))
                found = list(sums)
                for v, shift in enumerate(shifts):
                    offset = _I64(_VECTOR * v * like.dtype.bitwidth // 8)
                    apart = builder.fsub(_wide(builder, at, offset, like, work), shift, flags=_SUMMED)
                    found[v] = builder.fadd(found[v], apart, flags=_SUMMED)
                    square = builder.fmul(apart, apart, flags=_SUMMED)
                    found[number + v] = builder.fadd(found[number + v], square, flags=_SUMMED)
                return found

            pointers = [*first, *second]
            sums = [builder.load(pointer, align=4) for pointer in pointers]
            for pointer, total in zip(pointers, _over_rows(builder, rows, sums, step), strict=True):
                builder.store(total, pointer, align=4)
            return context.get_dummy_value()

        return types.void(
            types.int64, types.int64, types.int64, types.int64, types.int64, like, work
        ), generate

    return add


def _add_gradient_columns(number: int) -> Any:
    @intrinsic
    def add(
        typing: Any,
        g: Any,
        g_stride: Any,
        x: Any,
        x_stride: Any,
        rows: Any,
        tables: Any,
        k: Any,
        like: Any,
        work: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            g, g_stride, x, x_stride, rows, tables, k = arguments[:7]
            middle, plain, moment = (
                _vectors_of_table(builder, tables, table * TABLE, k, number, work) for table in (0, 5, 6)
            )
            means = [builder.load(pointer, align=4) for pointer in middle]

            def step(row: Any, sums: list[Any]) -> list[Any]:
                at_g, at_x = (
                    builder.add(g, builder.mul(row, g_stride)),
                    builder.add(x, builder.mul(row, x_stride)),
                )
                found = list(sums)
                for v, mean in enumerate(means):
                    value = _wide(builder, at_g, _I64(_VECTOR * v * work.dtype.bitwidth // 8), work, work)
                    offset = _I64(_VECTOR * v * like.dtype.bitwidth // 8)
                    apart = builder.fsub(_wide(builder, at_x, offset, like, work), mean, flags=_SUMMED)
                    found[v] = builder.fadd(found[v], value, flags=_SUMMED)
                    product = builder.fmul(value, apart, flags=_SUMMED)
                    found[number + v] = builder.fadd(found[number + v], product, flags=_SUMMED)
                return found

            pointers = [*plain, *moment]
            sums = [builder.load(pointer, align=4) for pointer in pointers]
            for pointer, total in zip(pointers, _over_rows(builder, rows, sums, step), strict=True):
                builder.store(total, pointer, align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7, like, work), generate

    return add


add_columns_64, add_columns_16 = _add_columns(4), _add_columns(1)
"""Add x − shift and its square to the sums of 64 or 16 columns, over rows `stride` bytes apart."""
add_gradient_columns_64, add_gradient_columns_16 = _add_gradient_columns(4), _add_gradient_columns(1)
"""Add g and g·(x − mean) to the sums of 64 or 16 columns, over rows."""


@intrinsic
def load_bits(typing: Any, address: Any, i: Any) -> Any:
    """The i-th word of 16 bits at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_element(builder, arguments[0], arguments[1], _I16))

    return types.uint16(types.int64, types.int64), generate


@intrinsic
def store_bits(typing: Any, address: Any, i: Any, bits: Any) -> Any:
    """Write the i-th word of 16 bits at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _element(builder, arguments[0], arguments[1], _I16))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.uint16), generate
