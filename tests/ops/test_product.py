"""Mask × weights × ghost × renorm × activation × residual × ranks, against the oracle."""

import itertools

import pytest
import torch
from tests.ops.product import SHARDS, VALUES, Row, case, compare, full, measured, oracle, pairwise
from tests.ranks import run_ranks

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}


def check_alone(row, dtype):
    data = case(row)
    compare(row, [measured(row, data, dtype)], oracle(row, data), TOLERANCES[dtype])


def check_ranks(rank, size, rows):
    """Runs in every process: all rows with one set of processes."""
    import torch.distributed as dist

    from normsmith.ops import Sync

    sync = Sync(dist.group.WORLD)
    return [{dtype: measured(row, case(row), dtype, rank, sync) for dtype in TOLERANCES} for row in rows]


def compare_ranks(rows, size):
    by_rank = run_ranks(check_ranks, size, rows)
    for index, row in enumerate(rows):
        want = oracle(row, case(row))
        for dtype, tolerance in TOLERANCES.items():
            compare(row, [results[index][dtype] for results in by_rank], want, tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("row", pairwise(1), ids=str)
def test_pairs_in_one_process(row, dtype):
    check_alone(row, dtype)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_pairs_across_ranks(size):
    compare_ranks(pairwise(size), size)


@pytest.mark.full
def test_the_full_product():
    for row in full(1):
        for dtype in TOLERANCES:
            check_alone(row, dtype)
    for size in (2, 3, 4):
        compare_ranks(full(size), size)


def test_pairwise_covers_every_pair():
    rows = pairwise(1)
    assert len(rows) < 20
    for (one, ones), (other, others) in itertools.combinations(VALUES.items(), 2):
        for pair in itertools.product(ones, others):
            assert any((getattr(row, one), getattr(row, other)) == pair for row in rows)


def test_the_oracle_would_notice():
    row = Row(renorm=True)
    data = case(row)
    want = oracle(row, data)
    data.running_var *= 1.01
    with pytest.raises(AssertionError, match="off by"):
        compare(row, [measured(row, data, torch.float64)], want, 1e-10)
    assert 0 in SHARDS[3]
