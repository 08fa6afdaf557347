"""The decisions of `normsmith.ops.resolve`, inlined into kernels: one channel at a time, in float64.

`resolve`, `commit` and `gradients` there are the definition; the contract that tests all backends compares the two.

Statistics are rows of shape (groups, channels), in the dtype of the work. Partial sums of shape
(parts, groups, channels, 3) are count, mean and M2 in the forward, Σg and Σg·(x − mean) in the backward.
"""

from __future__ import annotations

import math

from numpy import float64, int64

from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.lanes import load, store
from normsmith.ops.cpu.kernels.translate import inlined, part


@inlined
def merge(into, count, mean, m2):
    """Chan's formula: add a part to the (count, mean, M2) at an address."""
    have, old = load(into, 0, float64), load(into, 1, float64)
    if have == 0:
        store(into, 0, count, float64)
        store(into, 1, mean, float64)
        store(into, 2, m2, float64)
    elif count > 0:
        share, apart = count / (have + count), mean - old
        store(into, 0, have + count, float64)
        store(into, 1, old + apart * share, float64)
        store(into, 2, load(into, 2, float64) + (m2 + apart * apart * have * share), float64)


@inlined
def merge_sums(into, count, shift, first, second):
    """Merge a part of which Σ(x − shift) and Σ(x − shift)² are known."""
    if count > 0:
        away = first / count
        m2 = second - away * first
        merge(into, count, shift + away, 0.0 if m2 < 0 else m2)  # NaN stays


@part
def settle_channel(a, f, channel, work):
    """From the parts of a channel to what normalises each of its groups, and to its running statistics."""
    channels, groups, eps = a[slot.CHANNELS], a[slot.GROUPS], f[slot.EPS]
    old_mean, old_var, old_std, population = 0.0, 1.0, 0.0, 0.0
    if a[slot.RUNNING_MEAN] != 0:
        old_mean = float64(load(a[slot.RUNNING_MEAN], channel, work))
        old_var = float64(load(a[slot.RUNNING_VAR], channel, work))
        if a[slot.RUNNING_STD] != 0:
            old_std = float64(load(a[slot.RUNNING_STD], channel, work))
    gamma, beta = 1.0, 0.0
    if a[slot.GAMMA] != 0:
        gamma = float64(load(a[slot.GAMMA], channel, work))
    if a[slot.BETA] != 0:
        beta = float64(load(a[slot.BETA], channel, work))
    means, variances, deviations, usable = 0.0, 0.0, 0.0, 0
    for group in range(groups):
        mean, inv_std, m2, r, d, share = old_mean, 0.0, 0.0, 1.0, 0.0, 0.0
        if a[slot.RENORM] != 0:
            population = 1.0 / (old_std if a[slot.RUNNING_STD] != 0 else math.sqrt(old_var + eps))
        if a[slot.BY_BATCH] != 0:
            whole = a[slot.PARTIAL] + 24 * (group * channels + channel)
            for number in range(1, a[slot.PARTS]):
                other = whole + 24 * number * groups * channels
                merge(whole, load(other, 0, float64), load(other, 1, float64), load(other, 2, float64))
            count, m2 = load(whole, 0, float64), load(whole, 2, float64)
            squares, enough = count, count >= 2
            if a[slot.SQUARES] != 0:  # inf where the weights leave too few values
                squares = load(a[slot.SQUARES], group, float64)
                enough = count > 0 and squares < math.inf
            if enough:
                share = 1.0 / count
                deviation = math.sqrt(m2 * share + eps)
                mean, inv_std = load(whole, 1, float64), 1.0 / deviation
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
        low = mean - float64(high) if share != 0.0 else 0.0
        scale = inv_std * r * gamma
        at, stride = group * channels + channel, groups * channels
        out = a[slot.STATISTICS]
        store(out, slot.MEAN * stride + at, high, work)
        store(out, slot.LOW * stride + at, work(low), work)
        store(out, slot.INV_STD * stride + at, work(inv_std), work)
        store(out, slot.M2 * stride + at, work(m2), work)
        store(out, slot.SCALE * stride + at, work(scale), work)
        store(out, slot.SHIFT * stride + at, work(gamma * d + beta - low * scale), work)
        store(out, slot.R * stride + at, work(r), work)
        store(out, slot.D * stride + at, work(d), work)
        store(out, slot.SHARE * stride + at, work(share), work)
    if channel == 0 and a[slot.UPDATE] != 0 and a[slot.COUNTER] != 0:
        store(a[slot.COUNTER], 0, load(a[slot.COUNTER], 0, int64) + 1, int64)
    if a[slot.UPDATE] != 0 and usable > 0:
        if usable > 1:
            means, variances, deviations = means / usable, variances / usable, deviations / usable
        m = f[slot.MOMENTUM]
        if a[slot.SKIP_NONFINITE] == 0 or variances <= f[slot.LARGEST]:  # false for NaN
            store(a[slot.RUNNING_MEAN], channel, work(old_mean + m * (means - old_mean)), work)
            store(a[slot.RUNNING_VAR], channel, work(old_var + m * (variances - old_var)), work)
            if a[slot.RUNNING_STD] != 0:
                store(a[slot.RUNNING_STD], channel, work(old_std + m * (deviations - old_std)), work)


@part
def settle_gradient(a, f, channel, work):
    """From the parts of a channel's two sums to its dγ and dβ, and to the terms of dx of each of its groups."""
    channels, groups = a[slot.CHANNELS], a[slot.GROUPS]
    stride, statistics = groups * channels, a[slot.STATISTICS]
    dgamma, dbeta = 0.0, 0.0
    for group in range(groups):
        at = group * channels + channel
        plain, moment = 0.0, 0.0
        for number in range(a[slot.PARTS]):
            sums = a[slot.PARTIAL] + 24 * (number * stride + at)
            plain += load(sums, 0, float64)
            moment += load(sums, 1, float64)
        low = float64(load(statistics, slot.LOW * stride + at, work))
        inv_std = float64(load(statistics, slot.INV_STD * stride + at, work))
        scale = float64(load(statistics, slot.SCALE * stride + at, work))
        share = float64(load(statistics, slot.SHARE * stride + at, work))
        normal = (moment - low * plain) * inv_std
        dgamma += normal * load(statistics, slot.R * stride + at, work) + plain * load(
            statistics, slot.D * stride + at, work
        )
        dbeta += plain
        offset, slope = 0.0, 0.0
        if share != 0.0:
            slope = scale * normal * inv_std * share
            offset = scale * plain * share - slope * low
        store(a[slot.TERMS], slot.TERM_OFFSET * stride + at, work(offset), work)
        store(a[slot.TERMS], slot.TERM_SLOPE * stride + at, work(slope), work)
    store(a[slot.DGAMMA], channel, work(dgamma), work)
    store(a[slot.DBETA], channel, work(dbeta), work)
