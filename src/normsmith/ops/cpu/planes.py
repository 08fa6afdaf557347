"""Batches whose channels are planes of many contiguous positions: (batch, channels, *space), channels first.

A thread takes whole channels: it reads the planes of one, decides, and reads them again while they are still in
its cache. Where there are fewer channels than threads, the parts of a channel are some of the samples, and the
phases run one after the other.
"""

from __future__ import annotations

from numpy import float64

from normsmith.ops.cpu import arguments as slot
from normsmith.ops.cpu import settle
from normsmith.ops.cpu.elements import (
    differentiate,
    emit,
    fetch_rows,
    gradient_sums,
    normalise,
    pre_gradient,
    sums,
    weighted_sums,
)
from normsmith.ops.cpu.lanes import (
    RUN,
    fence,
    load,
    part,
    size_of,
    stack_of_run,
    store,
)
from normsmith.ops.cpu.settle import merge_sums, settle_channel, settle_gradient
from normsmith.ops.cpu.share import APPLY, MEASURE, SETTLE, samples_of, share_of


@part
def _measure(a, channel, group, number, extras, like, work):
    """Count, mean and M2 of one part of a channel."""
    size, positions = size_of(like), a[slot.POSITIONS]
    found = a[slot.PARTIAL] + 24 * ((number * a[slot.GROUPS] + group) * a[slot.CHANNELS] + channel)
    for i in range(3):
        store(found, i, 0.0, float64)
    start, stop = samples_of(a, group, number)
    shift, known = work(0), False
    count, first, second = 0.0, 0.0, 0.0
    for sample in range(start, stop):
        x = a[slot.X] + (sample * a[slot.CHANNELS] + channel) * positions * size
        for run in range(0, positions, RUN):
            n = min(RUN, positions - run)
            if extras is not None:
                if a[slot.CODE] != 0:
                    code = a[slot.CODE] + (sample * positions + run) * size_of(work)
                    for i in range(n if not known else 0):
                        if load(code, i, work) > 0:
                            shift, known = load(x, run + i, like), True
                            break
                    counted, one, two = weighted_sums(x + run * size, code, n, shift, like, work)
                    merge_sums(found, float64(counted), float64(shift), float64(one), float64(two))
                    continue
            if not known:
                shift, known = load(x, run, like), True
            one, two = sums(x + run * size, n, shift, like, work)
            count += n
            first += one
            second += two
            if count >= RUN:
                merge_sums(found, count, float64(shift), first, second)
                shift = work(load(found, 1, float64))
                count, first, second = 0.0, 0.0, 0.0
    merge_sums(found, count, float64(shift), first, second)


@part
def _coefficients(a, channel, group, terms, work):
    """What normalises a channel, and the terms of its gradient if there are any."""
    at, stride = group * a[slot.CHANNELS] + channel, a[slot.GROUPS] * a[slot.CHANNELS]
    mean = load(a[slot.STATISTICS], settle.MEAN * stride + at, work)
    scale = load(a[slot.STATISTICS], settle.SCALE * stride + at, work)
    shift = load(a[slot.STATISTICS], settle.SHIFT * stride + at, work)
    offset, slope = work(0), work(0)
    if terms:
        offset = load(a[slot.TERMS], settle.OFFSET * stride + at, work)
        slope = load(a[slot.TERMS], settle.SLOPE * stride + at, work)
    return mean, scale, shift, offset, slope


@part
def _apply(a, channel, group, number, buffer, spare, extras, like, work):
    """Normalise one part of a channel."""
    size, wide, positions = size_of(like), size_of(work), a[slot.POSITIONS]
    words = (positions + 15) // 16
    streams = a[slot.STREAM] != 0
    coefficients = _coefficients(a, channel, group, False, work)
    start, stop = samples_of(a, group, number)
    for sample in range(start, stop):
        plane = sample * a[slot.CHANNELS] + channel
        for run in range(0, positions, RUN):
            n, at = min(RUN, positions - run), (plane * positions + run) * size
            if channel + 1 < a[slot.CHANNELS]:
                fetch_rows(a[slot.X] + at + positions * size, 0, 1, n * size)
            normalise(
                a[slot.X] + at,
                a[slot.Y] + at,
                a[slot.RESIDUAL] + at if a[slot.RESIDUAL] != 0 else 0,
                a[slot.CODE] + (sample * positions + run) * wide if a[slot.CODE] != 0 else 0,
                a[slot.BITS] + plane * words * 2 + run // 8 if a[slot.BITS] != 0 else 0,
                n, coefficients, a[slot.RELU] != 0, streams, buffer, spare, extras, like, work,
            )  # fmt: skip


@part
def forward(a, f, extras, like, work):
    """Moments, decision and output, as the phases ask."""
    buffer, spare = stack_of_run(), stack_of_run()
    phases, parts = a[slot.PHASES], a[slot.PARTS]
    start, stop = share_of(a, a[slot.CHANNELS] * parts)
    for item in range(start, stop):
        channel, number = item // parts, item % parts
        for group in range(a[slot.GROUPS]):
            if phases & MEASURE:
                _measure(a, channel, group, number, extras, like, work)
        if phases & SETTLE and number == 0:
            settle_channel(a, f, channel, work)
        for group in range(a[slot.GROUPS]):
            if phases & APPLY:
                _apply(a, channel, group, number, buffer, spare, extras, like, work)
    if a[slot.STREAM] != 0:
        fence()


@part
def _sweep(a, channel, group, number, first, gradient, buffer, spare, extras, like, work):
    """Go through one part of a channel: to add up the gradient's sums at first, then to write dx."""
    size, wide, positions = size_of(like), size_of(work), a[slot.POSITIONS]
    words = (positions + 15) // 16
    streams = a[slot.STREAM] != 0
    at_channel = group * a[slot.CHANNELS] + channel
    coefficients = _coefficients(a, channel, group, not first, work)
    all_plain, all_moment = 0.0, 0.0
    start, stop = samples_of(a, group, number)
    for sample in range(start, stop):
        plane = sample * a[slot.CHANNELS] + channel
        for run in range(0, positions, RUN):
            n, at = min(RUN, positions - run), (plane * positions + run) * size
            x = a[slot.X] + at
            code = a[slot.CODE] + (sample * positions + run) * wide if a[slot.CODE] != 0 else 0
            bits = a[slot.BITS] + plane * words * 2 + run // 8 if a[slot.BITS] != 0 else 0
            g = pre_gradient(
                a[slot.G] + at,
                x,
                code,
                bits,
                n,
                coefficients,
                a[slot.RELU] != 0,
                gradient,
                extras,
                like,
                work,
            )
            if first:
                plain, moment = gradient_sums(g, x, code, n, coefficients[0], extras, like, work)
                all_plain += plain
                all_moment += moment
            else:
                if channel + 1 < a[slot.CHANNELS]:
                    fetch_rows(x + positions * size, 0, 1, n * size)
                    fetch_rows(a[slot.G] + at + positions * size, 0, 1, n * size)
                dx = a[slot.DX] + at
                differentiate(g, x, dx, code, n, coefficients, streams, buffer, spare, extras, like, work)
                if extras is not None:
                    if a[slot.DRESIDUAL] != 0:
                        emit(g, a[slot.DRESIDUAL] + at, spare, n, streams, like, work)
    if first:
        found = a[slot.PARTIAL] + 24 * (number * a[slot.GROUPS] * a[slot.CHANNELS] + at_channel)
        store(found, 0, all_plain, float64)
        store(found, 1, all_moment, float64)


@part
def backward(a, extras, like, work):
    """The sums of the gradient, what follows from them, and dx, as the phases ask."""
    gradient, buffer, spare = stack_of_run(), stack_of_run(), stack_of_run()
    phases, parts = a[slot.PHASES], a[slot.PARTS]
    start, stop = share_of(a, a[slot.CHANNELS] * parts)
    for item in range(start, stop):
        channel, number = item // parts, item % parts
        for group in range(a[slot.GROUPS]):
            if phases & MEASURE:
                _sweep(a, channel, group, number, True, gradient, buffer, spare, extras, like, work)
        if phases & SETTLE and number == 0:
            settle_gradient(a, channel, work)
        for group in range(a[slot.GROUPS]):
            if phases & APPLY:
                _sweep(a, channel, group, number, False, gradient, buffer, spare, extras, like, work)
    if a[slot.STREAM] != 0:
        fence()
