"""NS413: files without the running statistics."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checks.networks import Recurrent, Residual, cnn, images, mlp, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith
from normsmith import surgery
from normsmith.surgery import load_checkpoint


def saved(model: nn.Module, change: Callable[[dict[str, Any]], Any] = dict, **given: Any) -> Case:
    """A model with the file of its state dict, changed."""
    file = Path(tempfile.mkdtemp()) / "last.pt"
    torch.save(change(dict(model.state_dict())), file)
    return Case(model, given.pop("batches", None), {"checkpoint": file, **given})


def parameters_alone(state: dict[str, Any]) -> Any:
    return {name: value for name, value in state.items() if "running" not in name and "tracked" not in name}


def in_lightning(state: dict[str, Any]) -> Any:
    return {
        "epoch": 3,
        "state_dict": {f"model.{name}": value for name, value in parameters_alone(state).items()},
    }


def new_buffers(state: dict[str, Any]) -> Any:
    fresh = {"running_mean": torch.zeros_like, "running_var": torch.ones_like}
    return {name: fresh.get(name.rpartition(".")[2], torch.clone)(value) for name, value in state.items()}


def negative(state: dict[str, Any]) -> Any:
    return state | {"norm.running_var": state["norm.running_var"] - 5}


def without_counters(state: dict[str, Any]) -> Any:
    return {name: value for name, value in state.items() if "tracked" not in name}


class TestCheckpointWithoutStatistics(RuleContract):
    code = "NS413"
    healed = False  # the file stays as it is
    faulty = {
        "parameters alone": lambda: saved(trained(mlp(), vectors(4), 2), parameters_alone),
        "parameters alone, in a file of Lightning": lambda: saved(Residual(), in_lightning),
        "buffers of a new network": lambda: saved(trained(cnn(), images(4), 2), new_buffers),
        "a negative variance": lambda: saved(trained(Recurrent(), sequences(4), 2), negative),
        "without affine": lambda: saved(mlp(affine=False), parameters_alone),
    }
    healthy = {
        "a state dict": lambda: saved(trained(mlp(), vectors(4), 2)),
        "the counter alone is missing": lambda: saved(trained(cnn(), images(4), 2), without_counters),
        "a new network": lambda: saved(mlp()),
        "frozen norms": lambda: saved(surgery.freeze(Residual()).apply(), new_buffers),
        "no running statistics": lambda: saved(mlp(track_running_stats=False)),
        "no batch norm": lambda: saved(nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(1, 8))),
    }


def test_a_file_of_another_model_says_so():
    case = saved(mlp())
    findings = normsmith.check(cnn(), checkpoint=case.given["checkpoint"], select=["NS413"])
    assert "last.pt" in findings.not_run[0].reason


def test_such_a_file_can_be_loaded_where_that_is_asked_for():
    model = trained(mlp(), vectors(4), 2)
    file = saved(model, parameters_alone).given["checkpoint"]
    with pytest.raises(normsmith.errors.InputError):
        load_checkpoint(mlp(), file)
    new = mlp()
    said = load_checkpoint(new, file, lacking=True)
    assert torch.equal(new[0].weight, model[0].weight)
    assert new[1].running_mean.eq(0).all()
    assert "no running statistics, 4 tensors" in str(said)
