"""The operations of batch norm on the elements of a row: what is summed, and what is written.

The numbers of a column stand in tables, side by side at one address. A code says of each element how much it
counts, or, below 0, that it is padding. Kernels without `coded` know no codes, those without `added` no residual and
no kept bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.lanes import stack
from normsmith.ops.cpu.kernels.vectors import TABLE, Operation, Step, Vectors, operation

MEAN, SCALE, SHIFT, OFFSET, SLOPE, PLAIN, MOMENT = range(7)
"""Numbers of the tables of what normalises and differentiates, and of the sums of the gradient."""
AROUND, FIRST, SECOND, COUNT, SHIFTS = range(5)
"""Numbers of the tables of a batch's sums: what is subtracted first, Σ, Σ of squares, and Σ of weights; and what is
subtracted, once for each channel."""
stack_of_tables = stack(7 * TABLE * 8)

Lanes = Sequence[Any]


def _add_sums(v: Vectors, coefficients: Lanes, sums: Lanes) -> Lanes:
    """Σ(x − around), Σ(x − around)², and with codes weighted, and Σw; padding counts nothing, whatever it holds."""
    (around,), (first, second, *counts) = coefficients, sums
    apart = v.sub(v.read(slot.X, around), around)
    weighted = apart
    if v.coded:
        weight = v.codes()
        nothing = v.at_most_zero(weight)
        weight, apart = v.where(nothing, v.zero, weight), v.where(nothing, v.zero, apart)
        weighted, counts = v.mul(weight, apart), [v.add(counts[0], weight)]
    return v.add(first, weighted), v.add(second, v.mul(weighted, apart)), *counts


def _normalise(v: Vectors, coefficients: Lanes, sums: Lanes) -> Lanes:
    """y = relu((x − mean)·scale + shift + residual), and the bits of what was above 0."""
    mean, scale, shift = coefficients
    value = v.add(v.mul(v.sub(v.read(slot.X, mean), mean), scale), shift)
    if v.added:
        value = v.add(value, v.read(slot.RESIDUAL, v.zero))
    off = v.at_most_zero(value)
    if v.added:
        v.write_bits(v.opposite(off))
    value = v.where(v.both(off, v.flag(slot.RELU)), v.zero, value)
    if v.coded:
        value = v.where(v.negative(v.codes()), v.zero, value)
    v.write(slot.Y, value)
    return sums


def _before_activation(v: Vectors, mean: Any, scale: Any, shift: Any) -> tuple[Any, Any, Any]:
    """The gradient before the activation, x − mean, and, where there are any, the codes; 0 in padding."""
    apart = v.sub(v.read(slot.X, mean), mean)
    off = v.both(v.at_most_zero(v.add(v.mul(apart, scale), shift)), v.flag(slot.RELU))
    code = None
    if v.added:
        off = v.where(v.has_bits(), v.opposite(v.bits()), off)
    if v.coded:
        code = v.codes()
        padding = v.negative(code)
        off, apart = v.either(off, padding), v.where(padding, v.zero, apart)
    return v.where(off, v.zero, v.read(slot.G, v.zero)), apart, code


def _add_gradient_sums(v: Vectors, coefficients: Lanes, sums: Lanes) -> Lanes:
    """Σg and Σg·(x − mean)."""
    plain, moment = sums
    g, apart, _ = _before_activation(v, *coefficients)
    return v.add(plain, g), v.add(moment, v.mul(g, apart))


def _differentiate(v: Vectors, coefficients: Lanes, sums: Lanes) -> Lanes:
    """dx = scale·g − w·(offset + slope·(x − mean)), 0 in padding; and g, for the residual."""
    mean, scale, shift, offset, slope = coefficients
    g, apart, code = _before_activation(v, mean, scale, shift)
    through = v.add(offset, v.mul(slope, apart))
    if v.coded:
        through = v.where(v.negative(code), v.zero, v.mul(code, through))
    v.write(slot.DX, v.sub(v.mul(scale, g), through))
    if v.added:
        v.write_if_there(slot.DRESIDUAL, g)
    return sums


def _fetching(batches: Sequence[int], step: Step) -> Step:
    """The step, with requests to the cache for what will be read soon."""

    def fetching(v: Vectors, coefficients: Lanes, sums: Lanes) -> Lanes:
        for batch in batches:
            v.fetch(batch)
        return step(v, coefficients, sums)

    return fetching


def operations(by_column: bool) -> dict[str, Operation]:
    """Each operation.

    `by_column`: tables hold a number per column; otherwise 16 numbers, which are used, or summed, by all columns.
    """
    normalising = (MEAN, SCALE, SHIFT)
    # planes are summed up from where the channel before has put them
    x, both = ((slot.X,), (slot.X, slot.G)) if by_column else ((), ())
    return {
        "add_sums": operation(
            _fetching(x, _add_sums), (AROUND,), (FIRST, SECOND), (COUNT,), by_column=by_column
        ),
        "normalise": operation(_fetching((slot.X,), _normalise), normalising, (), by_column=by_column),
        "add_gradient_sums": operation(
            _fetching(both, _add_gradient_sums), normalising, (PLAIN, MOMENT), by_column=by_column
        ),
        "differentiate": operation(
            _fetching((slot.X, slot.G), _differentiate),
            (*normalising, OFFSET, SLOPE),
            (),
            by_column=by_column,
        ),
    }
