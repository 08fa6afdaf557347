"""NS307: files of ranks whose running statistics differ."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from tests.checks.networks import Recurrent, cnn, images, mlp, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith
from normsmith import surgery


def ranks(model: nn.Module, data: list[list[Any]], *, synchronised: bool = False) -> Case:
    """The files of ranks with the same parameters, each after forwards on its own data."""
    folder, files = Path(tempfile.mkdtemp()), []
    replica = model
    for rank, batches in enumerate(data):
        replica = replica if synchronised else deepcopy(model)
        replica.train()
        for x, _ in batches:
            replica(x)
        files.append(folder / f"rank{rank}.pt")
        torch.save(replica.state_dict(), files[-1])
    return Case(model, None, {"rank_checkpoints": files})


def moved(batches: list[Any], by: float) -> list[Any]:
    return [(x + by, y) for x, y in batches]


def scaled(batches: list[Any], by: float) -> list[Any]:
    return [(x * by, y) for x, y in batches]


class TestRankDivergence(RuleContract):
    code = "NS307"

    @pytest.fixture(autouse=True)
    def within_a_distributed_run(self):
        """Of a single process: the fix asks for one."""
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )
        yield
        torch.distributed.destroy_process_group()

    faulty = {
        "each rank has data of its own": lambda: ranks(mlp(), [vectors(), moved(vectors(), 1.0)]),
        "one of three images brighter": lambda: ranks(
            cnn(), [images(), images(seed=1), moved(images(), 2.0)]
        ),
        "another scale": lambda: ranks(Recurrent(), [scaled(sequences(), 0.3), scaled(sequences(), 3.0)]),
    }
    healthy = {
        "the last update alone": lambda: ranks(trained(mlp(), vectors()), [vectors(1), vectors(1, seed=1)]),
        "large batches of the same data": lambda: ranks(
            cnn(), [images(40, size=32), images(40, size=32, seed=1)]
        ),
        "frozen norms": lambda: ranks(
            surgery.freeze(mlp(), "statistics").apply(), [vectors(), moved(vectors(), 1.0)]
        ),
        "no batch norm": lambda: ranks(nn.Sequential(nn.Linear(8, 8)), [vectors(), moved(vectors(), 1.0)]),
    }


def test_files_of_different_runs_are_no_ranks():
    one, other = ranks(mlp(), [vectors()]), ranks(mlp(), [vectors()])
    files = [*one.given["rank_checkpoints"], *other.given["rank_checkpoints"]]
    findings = normsmith.check(one.model, rank_checkpoints=files, select=["NS307"])
    assert "differ in their parameters" in findings.not_run[0].reason
    findings = normsmith.check(one.model, rank_checkpoints=files[:1], select=["NS307"])
    assert "two ranks or more" in findings.not_run[0].reason
