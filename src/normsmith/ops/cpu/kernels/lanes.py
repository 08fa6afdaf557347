"""What kernels need and numba lacks: raw memory, buffers on the stack, half precision, 16 numbers at a time.

Addresses are integers. `like` is a numpy scalar type that stands for a tensor's dtype: float32, float64 and int64
are themselves, uint16 is bfloat16 and int16 is float16. `work` is the type of numbers to work with: float64 for
float64, else float32. All of this is written as primitives of `translate`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target

from normsmith.ops.cpu.kernels.arguments import LANES
from normsmith.ops.cpu.kernels.translate import Lanes, primitive, splat

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be reordered and contracted; NaN and inf must come through."""


_I1, _I16, _I32, _I64 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_F16, _F32, _F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()


class _BFloatType(ir.Type):
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"


MEMORY = {types.float32: _F32, types.float64: _F64, types.int64: _I64, types.uint16: _I16, types.int16: _I16}
_NUMBER = {
    types.float32: types.float32,
    types.float64: types.float64,
    types.int64: types.int64,
    types.uint16: types.float32,
    types.int16: types.float32,
}


def lanes(kind: Any) -> Any:
    """The type of 16 numbers side by side."""
    return ir.VectorType(kind, LANES)


def constant(kind: Any, number: float) -> Any:
    """A constant vector that holds a number 16 times."""
    return ir.Constant(lanes(kind), [number] * LANES)


def as_number(builder: Any, value: Any, stored: Any) -> Any:
    """Elements as they lie in memory, one or a vector of them, as numbers to work with."""
    several = isinstance(value.type, ir.VectorType)
    wide = lanes if several else _itself
    if stored == types.uint16:
        sixteen = constant(_I32, 16) if several else _I32(16)
        return builder.bitcast(builder.shl(builder.zext(value, wide(_I32)), sixteen), wide(_F32))
    if stored == types.int16:
        return builder.fpext(builder.bitcast(value, wide(_F16)), wide(_F32))
    return value


def as_stored(builder: Any, values: Any, stored: Any) -> Any:
    """16 numbers as they lie in memory, rounded to nearest even; a NaN stays one."""
    if stored == types.int16:
        return builder.bitcast(builder.fptrunc(values, lanes(_F16)), lanes(_I16))
    if stored != types.uint16:
        return values
    if _rounds_to_bfloat():
        return builder.bitcast(builder.fptrunc(values, lanes(_BFloatType())), lanes(_I16))
    bits, sixteen = builder.bitcast(values, lanes(_I32)), constant(_I32, 16)
    odd = builder.and_(builder.lshr(bits, sixteen), constant(_I32, 1))
    rounded = builder.add(bits, builder.add(odd, constant(_I32, 0x7FFF)))
    nan = builder.fcmp_unordered("uno", values, values)
    kept = builder.select(nan, constant(_I32, 0x7FC00000), rounded)
    return builder.trunc(builder.lshr(kept, sixteen), lanes(_I16))


@cache
def target_features() -> frozenset[str]:
    """What the processor can do that numba compiles for: this one, or an older one where NUMBA_CPU_NAME says so."""
    named = cpu_target.target_context.codegen()._tm_features.split(",")
    return frozenset(name[1:] for name in named if name.startswith("+"))


def _rounds_to_bfloat() -> bool:
    """Whether one instruction rounds; elsewhere LLVM would call a function that is not there.

    That instruction takes numbers below 1.2e-38 for 0.
    """
    return "avx512bf16" in target_features() and binding.llvm_version_info[0] >= 22


def _itself(kind: Any) -> Any:
    return kind


def pointer(builder: Any, address: Any, kind: Any) -> Any:
    """An address as a pointer to a value of that type."""
    return builder.inttoptr(address, kind.as_pointer())


def _element(builder: Any, address: Any, i: Any, kind: Any) -> Any:
    return builder.gep(pointer(builder, address, kind), [i], inbounds=True)


@primitive
def load(typing: Any, address: Any, i: Any, like: Any) -> Any:
    """The i-th element at an address, as a number to work with."""
    stored = like.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(_element(builder, arguments[0], arguments[1], MEMORY[stored]))
        return as_number(builder, value, stored)

    return _NUMBER[stored](types.int64, types.int64, like), generate


@primitive
def store(typing: Any, address: Any, i: Any, value: Any, like: Any) -> Any:
    """Write the i-th element at an address."""
    stored = like.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, i, value = arguments[:3]
        builder.store(value, _element(builder, address, i, MEMORY[stored]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, stored, like), generate


def masked(builder: Any, name: str, kind: Any) -> Any:
    """LLVM's function that loads or stores those of 16 elements that a mask names."""
    mask = lanes(_I1)
    if name == "load":
        function = ir.FunctionType(kind, [kind.as_pointer(), _I32, mask, kind])
    else:
        function = ir.FunctionType(ir.VoidType(), [kind, kind.as_pointer(), _I32, mask])
    element = {_F32: "f32", _F64: "f64"}.get(kind.element, "i16")
    return cgutils.get_or_insert_function(
        builder.module, function, f"llvm.masked.{name}.v{LANES}{element}.p0"
    )


def first_of(builder: Any, n: Any) -> Any:
    """A mask of the first n of 16 elements."""
    numbers = ir.Constant(lanes(_I32), list(range(LANES)))
    return builder.icmp_signed("<", numbers, splat(builder, builder.trunc(n, _I32)))


@primitive
def load_some(typing: Any, address: Any, i: Any, n: Any, like: Any) -> Any:
    """n elements at an address, at most 16, from the i-th on; with n = None that element alone, as `load` gives it."""
    stored, several = like.dtype, not isinstance(n, types.NoneType)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at = _element(builder, arguments[0], arguments[1], MEMORY[stored])
        if not several:
            return as_number(builder, builder.load(at), stored)
        kind, nothing = lanes(MEMORY[stored]), constant(MEMORY[stored], 0)
        given = [builder.bitcast(at, kind.as_pointer()), _I32(stored.bitwidth // 8)]
        mask = first_of(builder, arguments[2])
        return as_number(
            builder, builder.call(masked(builder, "load", kind), [*given, mask, nothing]), stored
        )

    kind = Lanes(_NUMBER[stored]) if several else _NUMBER[stored]
    return kind(types.int64, types.int64, types.int64 if several else n, like), generate


@primitive
def store_some(typing: Any, address: Any, i: Any, value: Any, n: Any, like: Any) -> Any:
    """Write n elements at an address, at most 16, from the i-th on; with n = None that element alone."""
    stored, several = like.dtype, not isinstance(n, types.NoneType)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at, value = _element(builder, arguments[0], arguments[1], MEMORY[stored]), arguments[2]
        if several:
            to = builder.bitcast(at, lanes(MEMORY[stored]).as_pointer())
            mask = first_of(builder, arguments[3])
            store_masked = masked(builder, "store", value.type)
            builder.call(store_masked, [value, to, _I32(stored.bitwidth // 8), mask])
        else:
            builder.store(value, at)
        return context.get_dummy_value()

    kinds = (Lanes(stored), types.int64) if several else (stored, n)
    return types.void(types.int64, types.int64, *kinds, like), generate


@primitive
def some(typing: Any, value: Any, n: Any) -> Any:
    """A number 16 times; with n = None the number."""
    several = not isinstance(n, types.NoneType)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return splat(builder, arguments[0]) if several else arguments[0]

    return (Lanes(value) if several else value)(value, types.int64 if several else n), generate


@primitive
def size_of(typing: Any, like: Any) -> Any:
    """Bytes of an element."""
    size = like.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _I64(size)

    return types.int64(like), generate


@primitive
def call_for_number(typing: Any, address: Any) -> Any:
    """Call the C function `int f(void)` at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(_I32, [])
        return builder.sext(builder.call(pointer(builder, arguments[0], function), []), _I64)

    return types.int64(types.int64), generate


@primitive
def call(typing: Any, address: Any) -> Any:
    """Call the C function `void f(void)` at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(ir.VoidType(), [])
        builder.call(pointer(builder, arguments[0], function), [])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@primitive
def fence(typing: Any) -> Any:
    """Order non-temporal stores before what follows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def alloca(builder: Any, size: int) -> Any:
    """`size` bytes of the stack, aligned to a cache line."""
    with builder.goto_entry_block():
        buffer = builder.alloca(ir.ArrayType(ir.IntType(8), size))
        buffer.align = 64
    return buffer


def stack(size: int) -> Any:
    """A primitive for the address of `size` bytes of the stack, aligned to a cache line."""

    @primitive
    def allocate(typing: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.ptrtoint(alloca(builder, size), _I64)

        return types.int64(), generate

    return allocate


def over_lanes(
    builder: Any, stop: Any, carried: list[Any], body: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Generate a loop over k = 0, 16, … below `stop`; `carried` are values that stay in registers."""
    before = builder.block
    inside, after = builder.append_basic_block("lanes"), builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed(">", stop, _I64(0)), inside, after)
    builder.position_at_end(inside)
    k = builder.phi(_I64)
    k.add_incoming(_I64(0), before)
    current = [builder.phi(value.type) for value in carried]
    results = body(k, current)
    following = builder.add(k, _I64(LANES))
    k.add_incoming(following, builder.block)
    for phi, first, value in zip(current, carried, results, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(value, builder.block)
    last = builder.block
    builder.cbranch(builder.icmp_signed("<", following, stop), inside, after)
    builder.position_at_end(after)
    end = [builder.phi(value.type) for value in carried]
    for phi, first, value in zip(end, carried, results, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(value, last)
    return end


@primitive
def fill(typing: Any, address: Any, n: Any, value: Any, work: Any) -> Any:
    """Write a number n times, rounded up to a multiple of 16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, n, value = arguments[:3]
        kind = lanes(MEMORY[work.dtype])
        values = splat(builder, value)

        def body(k: Any, carried: list[Any]) -> list[Any]:
            at = _element(builder, address, k, MEMORY[work.dtype])
            builder.store(values, builder.bitcast(at, kind.as_pointer()), align=work.dtype.bitwidth // 8)
            return []

        over_lanes(builder, n, [], body)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, work.dtype, work), generate


@primitive
def copy(typing: Any, target: Any, source: Any, size: Any) -> Any:
    """Copy bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = (pointer(builder, address, ir.IntType(8)) for address in arguments[:2])
        cgutils.raw_memcpy(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@primitive
def total(typing: Any, address: Any, work: Any) -> Any:
    """The sum of the 16 numbers at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = MEMORY[work.dtype]
        values = builder.load(pointer(builder, arguments[0], lanes(kind)), align=work.dtype.bitwidth // 8)
        while values.type.count > 1:
            half = values.type.count // 2
            low, high = (
                builder.shuffle_vector(values, values, ir.Constant(ir.VectorType(_I32, half), list(which)))
                for which in (range(half), range(half, 2 * half))
            )
            values = builder.fadd(low, high)
        return builder.extract_element(values, _I32(0))

    return work.dtype(types.int64, work), generate
