"""Recurrent layers whose inputs are normalised by running statistics are torch's layers with other weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from normsmith.layers import BatchNormGRU, BatchNormLSTM, _cells, freeze
from normsmith.layers.recurrent import RecurrentBase

both = pytest.mark.parametrize("cls", [BatchNormLSTM, BatchNormGRU])


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each cell that was asked could be fused."""
    seen: list[bool] = []
    original = _cells.folded

    def noting(*arguments: Any) -> Any:
        weights = original(*arguments)
        seen.append(weights is not None)
        return weights

    monkeypatch.setattr(_cells, "folded", noting)
    return seen


def trained(cls: type[RecurrentBase], dtype: torch.dtype = torch.float32, **options: Any) -> RecurrentBase:
    layer = cls(5, 6, normalize="input", gamma=0.7, dtype=dtype, **options)
    for _ in range(3):
        layer(torch.randn(4, 7, 5, dtype=dtype) + 1)
    return layer.eval()


def one_by_one(layer: RecurrentBase, *arguments: Any) -> Any:
    """The same layer where a hook looks on, so that its norms are called."""
    handles = [cell.norm_ih.register_forward_hook(lambda *_: None) for cell in layer.children()]
    try:
        return layer(*arguments)
    finally:
        for handle in handles:
            handle.remove()


@both
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str)
def test_is_what_the_norm_computes(
    cls: type[RecurrentBase], dtype: torch.dtype, bound: float, fused: list[bool]
) -> None:
    layer, x = trained(cls, dtype, num_layers=2, bidirectional=True), torch.randn(9, 3, 5, dtype=dtype) + 1
    fused.clear()
    got, states = layer(x)
    assert fused == [True] * 4
    want, final = one_by_one(layer, x)
    assert fused[4:] == [False] * 4
    torch.testing.assert_close(got, want, rtol=0, atol=bound)
    torch.testing.assert_close(states, final, rtol=0, atol=bound)


@both
def test_gradients_and_a_learning_gamma(cls: type[RecurrentBase], fused: list[bool]) -> None:
    """Of a frozen norm in training: γ, the weights and the inputs learn through the fold."""
    layer, x = freeze(trained(cls, torch.float64)).train(), torch.randn(6, 3, 5, dtype=torch.float64)
    leaves = [x.requires_grad_(), *layer.parameters()]
    fused.clear()

    def gradients(run: Callable[[Tensor], Any]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(run(x)[0].sin().sum(), leaves)

    torch.testing.assert_close(gradients(layer), gradients(lambda x: one_by_one(layer, x)))
    assert fused == [True, False]


@both
def test_what_changes_is_seen_by_the_next_call(cls: type[RecurrentBase], fused: list[bool]) -> None:
    layer, x = trained(cls), torch.randn(6, 3, 5)
    cell: Any = layer.l0
    fused.clear()
    for change in (cell.norm_ih.running_mean, cell.norm_ih.weight, cell.weight_ih, cell.bias):
        before = layer(x)[0]
        with torch.no_grad():
            change.add_(0.5)
        after = layer(x)[0]
        assert not torch.allclose(before, after)
        torch.testing.assert_close(after, one_by_one(layer, x)[0])
    assert fused == [True, True, False] * 4


@both
def test_what_is_no_constant_is_not_folded(cls: type[RecurrentBase], fused: list[bool]) -> None:
    layer, x = trained(cls), torch.randn(6, 3, 5)
    fused.clear()
    layer.train()(x)  # statistics of the batch
    layer.eval()
    with torch.no_grad():
        layer.l0.norm_ih.running_mean.fill_(1e4)  # would cost digits
    assert layer(x)[0].isfinite().all()
    assert fused == [False, False]
    assert layer(x, mask=torch.ones(6, 3, dtype=torch.bool))[0].shape == (6, 3, 6)  # not asked
    assert len(fused) == 2
