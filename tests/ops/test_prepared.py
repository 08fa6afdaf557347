"""Calls that were prepared: what can be, and that nothing else is."""

from __future__ import annotations

import pytest
import torch

from normsmith.ops import Running, batch_norm
from normsmith.ops.prepared import is_plain, nothing_intervenes, nothing_looks_on, prepare, run


def running() -> Running:
    return Running(torch.zeros(3), torch.ones(3), None, torch.tensor(0))


def test_a_prepared_call_is_batch_norm():
    x, ours, theirs = torch.randn(8, 3), running(), running()
    weight, bias = torch.randn(3), torch.randn(3)
    call = prepare(x, weight, bias, ours)
    for _ in range(3):
        x = torch.randn(8, 3)
        y = run(call, False, x, weight, bias, running=ours)
        expected = batch_norm(x, theirs.mean, theirs.var, weight, bias, num_batches_tracked=theirs.batches)
        assert torch.equal(y, expected)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": None},
        {"activation": "gelu"},
        {"activation": "no such"},
        {"normalize_with": "no such"},
        {"weight": torch.ones(4)},
        {"weight": torch.ones(3, dtype=torch.float64)},
        {"weight": torch.ones(6)[::2]},
        {"running": Running(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))},
        {"x": torch.ones(1, 3)},
        {"x": torch.ones(1, 3), "on_small_batch": "running"},
        {"x": torch.empty(0, 3)},
        {"x": torch.ones(3, 8).t()},
        {"x": torch.ones(8, 3, dtype=torch.int64)},
        {"x": torch.ones(3)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_must_be_decided_anew_or_refused_is_not_prepared(options, unchecked):
    arguments = {"x": torch.randn(8, 3), "weight": None, "bias": None, "running": running()} | options
    assert prepare(**arguments) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2, 3, device="meta"),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.ones(2, 3, 4, 4).to_mkldnn(),
        lambda: torch.complex(torch.ones(2, 3), torch.ones(2, 3)).conj().imag,
        lambda: torch.ones(2, 3).as_subclass(type("Other", (torch.Tensor,), {})),
    ],
)
def test_tensors_that_are_not_plain(make):
    assert not is_plain(make())
    assert is_plain(torch.ones(2, 3))
    assert is_plain(torch.nn.Parameter(torch.ones(2, 3)))


def test_a_backend_that_is_asked_for_intervenes(monkeypatch):
    for free in (nothing_intervenes, nothing_looks_on):
        monkeypatch.delenv("NORMSMITH_BACKEND", raising=False)
        assert free()
        monkeypatch.setenv("NORMSMITH_BACKEND", "aten")
        assert not free()
        monkeypatch.setenv("NORMSMITH_BACKEND", "")
        assert free()
