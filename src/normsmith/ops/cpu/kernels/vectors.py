"""Operations on rows of elements, as code for 16 of them at a time.

An operation is a step: what is done to 16 elements of a row, written once, by means of `Vectors`. It becomes two
loops: over four whole rows at once, which share the coefficients of their columns, and over one row whose end is
masked. Vectors are written out, so that the compiler need not find them, and its optimiser has little to do: a user's
first step waits for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils

from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.arguments import LANES
from normsmith.ops.cpu.kernels.lanes import (
    FAST,
    MEMORY,
    alloca,
    as_number,
    as_stored,
    constant,
    first_of,
    lanes,
    masked,
    over_lanes,
    pointer,
)
from normsmith.ops.cpu.kernels.translate import primitive, splat

ROWS = 4
"""Rows that are worked on at once."""
TABLE = slot.RUN + 5 * LANES
"""Numbers from the start of one table to the next: there is room for what vectors write beyond the end, and it is no
power of two, whose multiples would share the cache's sets."""

_FLAGS = tuple(sorted(FAST))
_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))

Step = Callable[["Vectors", Sequence[Any], Sequence[Any]], Sequence[Any]]
"""`step(vectors, coefficients, sums)` gives the sums with 16 elements of a row added."""


class Operation(NamedTuple):
    """An operation as primitives: on four rows of whole vectors, on four rows of any length, and on one.

    Those `by_row` take one code for each row, which are whole vectors.
    """

    on_four: Any
    on_four_of_any_length: Any
    on_one: Any
    on_four_by_row: Any
    on_one_by_row: Any


def operation(
    step: Step,
    coefficients: Sequence[int],
    sums: Sequence[int],
    sums_of_codes: Sequence[int] = (),
    *,
    by_column: bool,
) -> Operation:
    """Primitives of an operation.

    `coefficients` and `sums` are the numbers of tables, which have an element per column, or 16 for all columns.
    """
    loop = _by_column if by_column else _for_all

    def make(rows: int, ends: bool, by_row: bool = False) -> Any:
        @primitive
        def run(
            typing: Any,
            block: Any,
            at: Any,
            stride: Any,
            n: Any,
            code: Any,
            code_stride: Any,
            bits: Any,
            bits_stride: Any,
            ahead: Any,
            tables: Any,
            added: Any,
            coded: Any,
            like: Any,
            work: Any,
        ) -> Any:
            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                has_codes = not isinstance(coded, types.NoneType)
                has_added = not isinstance(added, types.NoneType)
                v = Vectors(builder, arguments, rows, ends, has_added, has_codes, like.dtype, work.dtype)
                v.codes_by_row = by_row
                loop(v, step, coefficients, [*sums, *(sums_of_codes if has_codes else ())])
                return context.get_dummy_value()

            return types.void(*[types.int64] * 10, added, coded, like, work), generate

        return run

    by_row = (make(rows, False, by_row=True) for rows in (ROWS, 1))
    return Operation(make(ROWS, False), make(ROWS, True), make(1, True), *by_row)


def _by_column(v: Vectors, step: Step, coefficients: Sequence[int], sums: Sequence[int]) -> None:
    """Each column has coefficients and sums of its own, which all rows share."""

    def body(k: Any, carried: list[Any]) -> list[Any]:
        v.go_to(k)
        own = v.read_tables(coefficients, k)
        added: Sequence[Any] = v.read_tables(sums, k)
        for row in range(v.rows):
            added = step(v.at_row(row), own, added)
            v.flush()
        v.write_tables(sums, k, added)
        return []

    over_lanes(v.builder, v.n, [], body)


def _for_all(v: Vectors, step: Step, coefficients: Sequence[int], sums: Sequence[int]) -> None:
    """All columns share coefficients and sums; those of each row stay in registers.

    All rows are read before one is written: a read waits for an earlier write to an address that ends in the same
    12 bits, and planes are often a multiple of 4096 bytes apart.
    """
    zero, number = _I64(0), len(sums)
    shared = v.read_tables(coefficients, zero)

    def body(k: Any, carried: list[Any]) -> list[Any]:
        v.go_to(k)
        added: list[Any] = []
        for row in range(v.rows):
            added += step(v.at_row(row), shared, carried[row * number : (row + 1) * number])
        v.flush()
        return added

    first = [*v.read_tables(sums, zero), *[v.zero] * (number * (v.rows - 1))]
    last = over_lanes(v.builder, v.n, first, body)
    v.write_tables(sums, zero, [reduce(v.add, last[i::number]) for i in range(number)])


class Vectors:
    """Code for 16 elements of a row: what a step reads, computes and writes.

    Batches are named by the slots of their addresses. `row` and `k` say which elements are meant, `mask` which of
    them are there. What is the same for all elements is written before the loop.
    """

    row: int = 0
    k: Any = None
    mask: Any = None
    codes_by_row = False

    def __init__(
        self,
        builder: Any,
        arguments: Sequence[Any],
        rows: int,
        ends: bool,
        added: bool,
        coded: bool,
        like: Any,
        work: Any,
    ) -> None:
        self.builder, self.rows, self.added, self.coded = builder, rows, added, coded
        self._ends = ends
        self._like, self._work = like, work
        self._block, self._at, self._stride, self.n = arguments[:4]
        self._code, self._code_stride, self._bits, self._bits_stride, self._ahead, self._tables = arguments[
            4:10
        ]
        self._before = builder.block
        self._known: dict[Any, Any] = {}
        self._later: list[Any] = []
        self._wide, self._size = work.bitwidth // 8, like.bitwidth // 8
        self.zero = constant(MEMORY[work], 0.0)

    # what stands in memory

    def read(self, batch: int, otherwise: Any) -> Any:
        """Elements of a batch, `otherwise` beyond the end of the row."""
        return self._read(self._like, self._place(self._batch(batch), self._stride, self._size), otherwise)

    def codes(self) -> Any:
        """How much each element counts, below 0 where it is padding; 0 beyond the end."""
        if not self.codes_by_row:
            return self._read(self._work, self._place(self._code, self._code_stride, self._wide), self.zero)
        row, builder = self.row, self.builder

        def make() -> Any:
            at = builder.add(self._code, builder.mul(self._code_stride, _I64(row)))
            return splat(builder, builder.load(pointer(builder, at, MEMORY[self._work])))

        return self._once(("code", row), make)

    def bits(self) -> Any:
        """A bit per element; anything where none are kept."""
        at = self._place_of_bits(self._bits_or_constant(), self._has_bits())
        return self.builder.bitcast(self.builder.load(pointer(self.builder, at, _I16)), lanes(_I1))

    def write(self, batch: int, values: Any) -> None:
        """Write elements of a batch, at the next `flush`."""
        self._later.append((self._write, self.row, batch, values))

    def write_if_there(self, batch: int, values: Any) -> None:
        """Write elements of a batch that may be absent, at the next `flush`."""
        self._later.append((self._write_if_there, self.row, batch, values))

    def flush(self) -> None:
        """Write the elements that `write` and `write_if_there` have put off."""
        for write, row, batch, values in self._later:
            self.row = row
            write(batch, values)
        self._later.clear()

    def _write(self, batch: int, values: Any) -> None:
        """Write elements now, past the caches where that pays and addresses allow it."""
        builder, base = self.builder, self._batch(batch)
        stored = as_stored(builder, values, self._like)
        to = pointer(builder, self._place(base, self._stride, self._size), stored.type)
        if self.mask is not None:
            builder.call(masked(builder, "store", stored.type), [stored, to, _I32(self._size), self.mask])
            return
        line = min(64, LANES * self._size)

        def streams() -> Any:
            apart = builder.and_(builder.or_(base, self._stride), _I64(line - 1))
            return builder.and_(
                self._is_not_zero(self._slot(slot.STREAM)), builder.not_(self._is_not_zero(apart))
            )

        with builder.if_else(self._once(("streams", batch), streams)) as (past, through):
            with past:
                written = builder.store(stored, to, align=line)
                written.set_metadata("nontemporal", builder.module.add_metadata([_I32(1)]))
            with through:
                builder.store(stored, to, align=self._size)

    def _write_if_there(self, batch: int, values: Any) -> None:
        with self.builder.if_then(self.has(batch)):
            self._write(batch, values)

    def write_bits(self, bits: Any) -> None:
        """Keep a bit per element, where they are kept."""
        with self.builder.if_then(self._has_bits()):
            to = pointer(self.builder, self._place_of_bits(self._bits, None), _I16)
            self.builder.store(self.builder.bitcast(bits, _I16), to)

    def fetch(self, batch: int) -> None:
        """Ask the cache for elements of a batch that will be read soon, `ahead` of these."""
        builder = self.builder
        at = builder.add(self._place(self._batch(batch), self._stride, self._size), self._ahead)
        function = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, _I32, _I32, _I32])
        ask = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
        builder.call(ask, [pointer(builder, at, _I8), _I32(0), _I32(2), _I32(1)])

    def read_tables(self, numbers: Sequence[int], k: Any) -> list[Any]:
        """16 numbers of each of some tables, from the k-th on."""
        return [self.builder.load(self._table(number, k), align=self._wide) for number in numbers]

    def write_tables(self, numbers: Sequence[int], k: Any, values: Sequence[Any]) -> None:
        """Write 16 numbers of each of some tables."""
        for number, value in zip(numbers, values, strict=True):
            self.builder.store(value, self._table(number, k), align=self._wide)

    # what is computed

    def add(self, one: Any, other: Any) -> Any:
        return self.builder.fadd(one, other, flags=_FLAGS)

    def sub(self, one: Any, other: Any) -> Any:
        return self.builder.fsub(one, other, flags=_FLAGS)

    def mul(self, one: Any, other: Any) -> Any:
        return self.builder.fmul(one, other, flags=_FLAGS)

    def where(self, condition: Any, one: Any, other: Any) -> Any:
        return self.builder.select(condition, one, other)

    def both(self, one: Any, other: Any) -> Any:
        return self.builder.and_(one, other)

    def either(self, one: Any, other: Any) -> Any:
        return self.builder.or_(one, other)

    def opposite(self, condition: Any) -> Any:
        return self.builder.not_(condition)

    def at_most_zero(self, values: Any) -> Any:
        """Which are ≤ 0; NaN is not."""
        return self.builder.fcmp_ordered("<=", values, self.zero)

    def negative(self, values: Any) -> Any:
        """Which are < 0; NaN is not."""
        return self.builder.fcmp_ordered("<", values, self.zero)

    def flag(self, number: int) -> Any:
        """Whether a slot is not 0, for each element."""
        return splat(self.builder, self.has(number))

    def has_bits(self) -> Any:
        """Whether bits are kept, for each element."""
        return splat(self.builder, self._has_bits())

    def has(self, number: int) -> Any:
        """Whether a slot is not 0."""
        return self._once(("has", number), lambda: self._is_not_zero(self._slot(number)))

    # how

    def go_to(self, k: Any) -> None:
        """The elements from the k-th on, of those that are among the n of a row where it may end in between."""
        self.k = k
        if self._ends:
            self.mask = first_of(self.builder, self.builder.sub(self.n, k))

    def at_row(self, row: int) -> Vectors:
        """The elements of one of the rows."""
        self.row = row
        return self

    def _table(self, number: int, k: Any) -> Any:
        at = self.builder.mul(self.builder.add(k, _I64(number * TABLE)), _I64(self._wide))
        return pointer(self.builder, self.builder.add(self._tables, at), lanes(MEMORY[self._work]))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        """A value that is the same for all elements, computed before the loop."""
        if key not in self._known:
            if self.builder.block is self._before:
                self._known[key] = make()
            else:
                with self.builder.goto_block(self._before):
                    self._known[key] = make()
        return self._known[key]

    def _is_not_zero(self, value: Any) -> Any:
        return self.builder.icmp_signed("!=", value, _I64(0))

    def _has_bits(self) -> Any:
        return self._once("bits", lambda: self._is_not_zero(self._bits))

    def _slot(self, number: int) -> Any:
        def make() -> Any:
            at = self.builder.add(self._block, _I64(8 * number))
            return self.builder.load(pointer(self.builder, at, _I64))

        return self._once(("slot", number), make)

    def _batch(self, number: int) -> Any:
        value = self._slot(number)
        return self._once(("batch", number), lambda: self.builder.add(value, self._at))

    def _bits_or_constant(self) -> Any:
        """The address of kept bits, or, where none are kept, of some on the stack."""
        if "bits or constant" not in self._known:
            there, none = alloca(self.builder, 2), ir.Constant(_I16, 0)

            def make() -> Any:
                at = self.builder.ptrtoint(there, _I64)
                self.builder.store(none, pointer(self.builder, at, _I16))
                return self.builder.select(self._has_bits(), self._bits, at)

            self._once("bits or constant", make)
        return self._known["bits or constant"]

    def _place(self, base: Any, stride: Any, size: int) -> Any:
        """The address of these elements, of which each has `size` bytes."""
        builder = self.builder
        apart = builder.mul(self.k, _I64(size))
        if self.row:
            apart = builder.add(apart, builder.mul(stride, _I64(self.row)))
        return builder.add(base, apart)

    def _place_of_bits(self, base: Any, there: Any) -> Any:
        builder = self.builder
        apart = builder.add(builder.lshr(self.k, _I64(3)), builder.mul(self._bits_stride, _I64(self.row)))
        return builder.add(base, apart if there is None else builder.select(there, apart, _I64(0)))

    def _read(self, stored: Any, at: Any, otherwise: Any) -> Any:
        builder, kind = self.builder, lanes(MEMORY[stored])
        place, size = pointer(builder, at, kind), stored.bitwidth // 8
        if self.mask is None:
            return as_number(builder, builder.load(place, align=size), stored)
        nothing = constant(MEMORY[stored], 0)
        value = builder.call(masked(builder, "load", kind), [place, _I32(size), self.mask, nothing])
        return builder.select(self.mask, as_number(builder, value, stored), otherwise)
