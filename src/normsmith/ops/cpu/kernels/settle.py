"""The decisions of `normsmith.ops.resolve`, inlined into kernels, in float64: for one channel, or for 16 side by side.

`resolve`, `commit` and `gradients` there are the definition; the contract that tests all backends compares the two.

Statistics are rows of shape (groups, channels), in the dtype of the work. Partial sums of shape
(parts, groups, 3, channels) are count, mean and M2 in the forward, Σg and Σg·(x − mean) in the backward. All channels
of a part have the same count, and a share of the same batches. Parts of kernels take `n`, the number of channels from
the given one on, at most 16, or None: one channel, whose numbers are then no vectors.
"""

from __future__ import annotations

import math

from numpy import float64, int64

from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.lanes import load, load_some, some, store, store_some
from normsmith.ops.cpu.kernels.translate import inlined, part


@inlined
def partial_at(a, number, group, channel):
    """Where the partial sums of a channel begin; its next ones stand a row of all channels further."""
    return a[slot.PARTIAL] + 8 * ((number * a[slot.GROUPS] + group) * 3 * a[slot.CHANNELS] + channel)


@inlined
def merge(a, into, count, mean, m2, n):
    """Chan's formula: add a part to the count, the means and the M2s at an address."""
    row = 8 * a[slot.CHANNELS]
    have = load(into, 0, float64)
    if have == 0:
        store_some(into, 0, some(count, n), n, float64)
        store_some(into + row, 0, mean, n, float64)
        store_some(into + 2 * row, 0, m2, n, float64)
    elif count > 0:
        share, old = count / (have + count), load_some(into + row, 0, n, float64)
        apart, within = mean - old, load_some(into + 2 * row, 0, n, float64)
        store_some(into, 0, some(have + count, n), n, float64)
        store_some(into + row, 0, old + apart * share, n, float64)
        store_some(into + 2 * row, 0, within + (m2 + apart * apart * have * share), n, float64)


@inlined
def merge_sums(a, into, count, shift, first, second, n):
    """Merge a part of which Σ(x − shift) and Σ(x − shift)² are known."""
    if count > 0:
        away = first / count
        m2 = second - away * first
        merge(a, into, count, shift + away, 0.0 if m2 < 0 else m2, n)  # NaN stays


@part
def settle_channel(a, f, channel, n, work):
    """From the parts of channels to what normalises each of their groups, and to their running statistics."""
    channels, groups, eps = a[slot.CHANNELS], a[slot.GROUPS], f[slot.EPS]
    row = 8 * channels
    zero, one = some(0.0, n), some(1.0, n)
    old_mean, old_var, old_std, population = zero, one, zero, zero
    if a[slot.RUNNING_MEAN] != 0:
        old_mean = float64(load_some(a[slot.RUNNING_MEAN], channel, n, work))
        old_var = float64(load_some(a[slot.RUNNING_VAR], channel, n, work))
        if a[slot.RUNNING_STD] != 0:
            old_std = float64(load_some(a[slot.RUNNING_STD], channel, n, work))
    gamma, beta = one, zero
    if a[slot.GAMMA] != 0:
        gamma = float64(load_some(a[slot.GAMMA], channel, n, work))
    if a[slot.BETA] != 0:
        beta = float64(load_some(a[slot.BETA], channel, n, work))
    means, variances, deviations, usable = zero, zero, zero, 0
    for group in range(groups):
        mean, inv_std, m2, r, d, share = old_mean, zero, zero, one, zero, 0.0
        if a[slot.RENORM] != 0:
            population = 1.0 / (old_std if a[slot.RUNNING_STD] != 0 else math.sqrt(old_var + eps))
        if a[slot.BY_BATCH] != 0:
            whole = partial_at(a, 0, group, channel)
            for number in range(1, a[slot.PARTS]):
                other = partial_at(a, number, group, channel)
                other_mean = load_some(other + row, 0, n, float64)
                merge(
                    a,
                    whole,
                    load(other, 0, float64),
                    other_mean,
                    load_some(other + 2 * row, 0, n, float64),
                    n,
                )
            count, m2 = load(whole, 0, float64), load_some(whole + 2 * row, 0, n, float64)
            squares, enough = count, count >= 2
            if a[slot.SQUARES] != 0:  # inf where the weights leave too few values
                squares = load(a[slot.SQUARES], group, float64)
                enough = count > 0 and squares < math.inf
            if enough:
                share = 1.0 / count
                deviation = math.sqrt(m2 * share + eps)
                mean, inv_std = load_some(whole + row, 0, n, float64), 1.0 / deviation
                if a[slot.RENORM] != 0:
                    # comparisons that are false for NaN let it through
                    r, d = population * deviation, (mean - old_mean) * population
                    r = f[slot.R_MAX] if r > f[slot.R_MAX] else r
                    r = 1.0 / f[slot.R_MAX] if r < 1.0 / f[slot.R_MAX] else r
                    d = f[slot.D_MAX] if d > f[slot.D_MAX] else d
                    d = -f[slot.D_MAX] if d < -f[slot.D_MAX] else d
                means += mean
                variances += m2 / (count - squares * share)
                deviations += deviation
                usable += 1
        if share == 0.0:
            inv_std = 1.0 / (old_std if a[slot.RUNNING_STD] != 0 else math.sqrt(old_var + eps))
        high = work(mean)
        low = zero
        if share != 0.0:
            low = mean - float64(high)
        scale = inv_std * r * gamma
        at, stride = group * channels + channel, groups * channels
        out = a[slot.STATISTICS]
        store_some(out, slot.MEAN * stride + at, high, n, work)
        store_some(out, slot.LOW * stride + at, work(low), n, work)
        store_some(out, slot.INV_STD * stride + at, work(inv_std), n, work)
        store_some(out, slot.M2 * stride + at, work(m2), n, work)
        store_some(out, slot.SCALE * stride + at, work(scale), n, work)
        store_some(out, slot.SHIFT * stride + at, work(gamma * d + beta - low * scale), n, work)
        store_some(out, slot.R * stride + at, work(r), n, work)
        store_some(out, slot.D * stride + at, work(d), n, work)
        store_some(out, slot.SHARE * stride + at, some(work(share), n), n, work)
    if channel == 0 and a[slot.UPDATE] != 0 and a[slot.COUNTER] != 0:
        store(a[slot.COUNTER], 0, load(a[slot.COUNTER], 0, int64) + 1, int64)
    if a[slot.UPDATE] != 0 and usable > 0:
        if usable > 1:
            means, variances, deviations = means / usable, variances / usable, deviations / usable
        m = f[slot.MOMENTUM]
        new_mean, new_var = old_mean + m * (means - old_mean), old_var + m * (variances - old_var)
        new_std = old_std + m * (deviations - old_std)
        if a[slot.SKIP_NONFINITE] != 0:
            finite = variances <= f[slot.LARGEST]  # false for NaN
            new_mean, new_var = new_mean if finite else old_mean, new_var if finite else old_var
            new_std = new_std if finite else old_std
        store_some(a[slot.RUNNING_MEAN], channel, work(new_mean), n, work)
        store_some(a[slot.RUNNING_VAR], channel, work(new_var), n, work)
        if a[slot.RUNNING_STD] != 0:
            store_some(a[slot.RUNNING_STD], channel, work(new_std), n, work)


@part
def settle_gradient(a, f, channel, n, work):
    """From the parts of channels' two sums to their dγ and dβ, and to the terms of dx of each of their groups."""
    channels, groups = a[slot.CHANNELS], a[slot.GROUPS]
    row, stride, statistics = 8 * channels, groups * channels, a[slot.STATISTICS]
    dgamma, dbeta = some(0.0, n), some(0.0, n)
    for group in range(groups):
        at = group * channels + channel
        plain, moment = some(0.0, n), some(0.0, n)
        for number in range(a[slot.PARTS]):
            sums = partial_at(a, number, group, channel)
            plain += load_some(sums, 0, n, float64)
            moment += load_some(sums + row, 0, n, float64)
        low = float64(load_some(statistics, slot.LOW * stride + at, n, work))
        inv_std = float64(load_some(statistics, slot.INV_STD * stride + at, n, work))
        scale = float64(load_some(statistics, slot.SCALE * stride + at, n, work))
        share = float64(load(statistics, slot.SHARE * stride + at, work))
        normal = (moment - low * plain) * inv_std
        r = float64(load_some(statistics, slot.R * stride + at, n, work))
        d = float64(load_some(statistics, slot.D * stride + at, n, work))
        dgamma += normal * r + plain * d
        dbeta += plain
        offset, slope = some(0.0, n), some(0.0, n)
        if share != 0.0:
            slope = scale * normal * inv_std * share
            offset = scale * plain * share - slope * low
        store_some(a[slot.TERMS], slot.TERM_OFFSET * stride + at, work(offset), n, work)
        store_some(a[slot.TERMS], slot.TERM_SLOPE * stride + at, work(slope), n, work)
    store_some(a[slot.DGAMMA], channel, work(dgamma), n, work)
    store_some(a[slot.DBETA], channel, work(dbeta), n, work)
