"""What is computed for each element: activations and their gradients, the output, the gradients."""
# mypy: ignore-errors
# The bodies are Triton's language, not Python's: their types exist on the device only.

from __future__ import annotations

import triton
import triton.language as tl

from normsmith.ops.gpu.tiles import read_bits, write_bits


@triton.jit
def clip(value, least, most):
    """Clip; NaN comes through."""
    return tl.where(value < least, least, tl.where(value > most, most, value))


@triton.jit
def _sigmoid(v):
    return 1.0 / (1.0 + tl.exp(-v))


@triton.jit
def _tanh(v):
    """The hyperbolic tangent; near 0 by its series, where the quotient loses digits."""
    small = tl.exp(-2.0 * tl.abs(v))
    large = (1.0 - small) / (1.0 + small)
    square = v * v
    return tl.where(
        square < 0.01, v * (1.0 - square * (1 / 3 - square * (2 / 15))), tl.where(v < 0, -large, large)
    )


@triton.jit
def activate(v, ACT: tl.constexpr):
    """The activation of that name; the value itself where there is none."""
    if ACT == "relu":
        v = tl.where(v < 0, 0.0, v)
    elif ACT == "leaky_relu":
        v = tl.where(v > 0, v, 0.01 * v)
    elif ACT == "silu":
        v = v * _sigmoid(v)
    elif ACT == "gelu":
        v = 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))
    elif ACT == "hardswish":
        v = v * clip(v + 3.0, 0.0, 6.0) * (1 / 6)
    elif ACT == "sigmoid":
        v = _sigmoid(v)
    elif ACT == "tanh":
        v = _tanh(v)
    return v


@triton.jit
def chain(g, v, ACT: tl.constexpr):
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
def write_output(
    value, valid, inside, row, column, columns, z, y, mean, scale, shift,
    ACT: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """y = act((x − mean)·scale + shift + z), 0 where not valid; returns what came before the activation."""
    out = (value - mean) * scale + shift
    place = row * columns + column
    if z is not None:
        out += tl.load(z + place, mask=valid, other=0.0, eviction_policy="evict_first").to(tl.float32)
    after = tl.where(valid, activate(out, ACT), 0.0)
    tl.store(y + place, after.to(y.dtype.element_ty), mask=inside, eviction_policy=POLICY)
    return out


@triton.jit
def write_passed(bits, before, valid, row, column, end, right, columns, COLUMNS: tl.constexpr):
    """Write where ReLU let an element pass: all that the gradient needs of the residual. NaN passes, as in torch."""
    if bits is not None:
        write_bits(bits, valid & ~(before <= 0), row, column, end, right, columns, COLUMNS)


@triton.jit
def gradient_before(
    g, value, valid, row, column, end, right, columns, z, bits, mean, scale, shift,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ACT: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """The gradient before the activation, 0 where not valid."""
    place = row * columns + column
    grad = tl.load(g + place, mask=valid, other=0.0, eviction_policy=POLICY).to(tl.float32)
    if bits is not None:
        grad = tl.where(read_bits(bits, row, column, end, right, columns, ROWS, COLUMNS), grad, 0.0)
    elif ACT != "none":
        before = (value - mean) * scale + shift
        if z is not None:
            before += tl.load(z + place, mask=valid, other=0.0, eviction_policy=POLICY).to(tl.float32)
        grad = tl.where(valid, chain(grad, before, ACT), 0.0)
    return grad


@triton.jit
def write_gradients(
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
