"""The arguments of a kernel: a block of 64-bit slots, integers and floats side by side."""

from __future__ import annotations

(
    THREAD, THREADS, GET_THREAD, GET_THREADS, BARRIER, PHASES,
    X, Y, RESIDUAL, CODE, BITS,
    GAMMA, BETA, RUNNING_MEAN, RUNNING_VAR, RUNNING_STD, COUNTER,
    STATISTICS, PARTIAL, PARTS, SQUARES,
    SAMPLES, CHANNELS, POSITIONS, GROUP_SIZE, GROUPS,
    ROWS, STRIP, STRIPS, FOLD, BY_ROWS, BIT_LINES,
    RELU, STREAM, BY_BATCH, RENORM, UPDATE, SKIP_NONFINITE,
    EPS, MOMENTUM, R_MAX, D_MAX, LARGEST,
    G, DX, DRESIDUAL, TERMS, DGAMMA, DBETA,
    SELF,
    SLOTS,
) = range(51)  # fmt: skip

MEASURE, SETTLE, APPLY = 1, 2, 4
"""Phases, as bits: sums over the batch, decisions per channel, and the batch again."""
MEAN, LOW, INV_STD, M2, SCALE, SHIFT, R, D, SHARE = range(9)
STATISTICS_ROWS = 9
"""Rows of the statistics that a forward leaves."""
TERM_OFFSET, TERM_SLOPE = range(2)
"""Rows of the terms of dx."""
RUN = 1024
"""Columns that are worked on side by side, at most."""
LANES = 16
"""Elements that are worked on at a time."""
