"""All steps of a recurrence as one operation: where it is taken, and that it is what the steps are one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.layers.recurrences import both, lively
from torch import Tensor, nn

from normsmith.layers import BatchNormGRU, BatchNormLSTM, _cells, freeze
from normsmith.layers.recurrent import RecurrentBase


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each cell that was run as one operation."""
    seen: list[int] = []
    original = _cells.CellBase._all_steps

    def noting(self: Any, *arguments: Any) -> Any:
        seen.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(_cells.CellBase, "_all_steps", noting)
    return seen


def one_by_one(run: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cells, "can_run", lambda *_: False)
        return run()


def states_of(layer: RecurrentBase, batch: int) -> Any:
    h = torch.randn(layer.directions * layer.num_layers, batch, layer.hidden_size, dtype=torch.float64)
    return (h, h.sin()) if isinstance(layer, BatchNormLSTM) else h


@both
@pytest.mark.parametrize("normalize", ["all", "input"])
@pytest.mark.parametrize(
    "options", [{"bias": False}, {"num_layers": 2, "bidirectional": True}], ids=["plain", "deep"]
)
def test_is_what_the_steps_are_one_by_one(
    cls: type[RecurrentBase], normalize: str, options: dict[str, Any], together: list[int]
) -> None:
    """Outputs, states, gradients and running statistics, over more steps than are prepared at once."""
    layer = lively(cls(3, 4, normalize=normalize, max_steps=18, dtype=torch.float64, **options))
    twin, x = copy.deepcopy(layer), torch.randn(19, 3, 3, dtype=torch.float64)
    hx, g = states_of(layer, 3), torch.randn(19, 3, 4 * layer.directions, dtype=torch.float64)

    def outcome(layer: RecurrentBase) -> list[Tensor]:
        leaf, first = (
            x.clone().requires_grad_(),
            nn.utils.parameters_to_vector([*(hx if isinstance(hx, tuple) else (hx,))]),
        )
        first.requires_grad_()
        parts = [part.view(-1, 3, 4) for part in first.chunk(len(hx) if isinstance(hx, tuple) else 1)]
        output, states = layer(leaf, tuple(parts) if isinstance(hx, tuple) else parts[0])
        states = states if isinstance(states, tuple) else (states,)
        loss = (output * g).sum() + sum(state.sin().sum() for state in states)
        gradients = torch.autograd.grad(loss, [leaf, first, *layer.parameters()])
        return [output, *states, *gradients, *layer.buffers()]

    got = outcome(layer)
    assert len(together) == layer.num_layers * layer.directions
    want = one_by_one(lambda: outcome(twin))
    assert len(together) == layer.num_layers * layer.directions
    for mine, other in zip(got, want, strict=True):
        torch.testing.assert_close(mine, other)


@both
def test_gradients_of_gradients(cls: type[RecurrentBase], together: list[int]) -> None:
    layer = lively(cls(2, 2, dtype=torch.float64)).freeze("batch")
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *_: Tensor) -> Tensor:
        output, states = layer(x)
        return output.sum(2) + (states[1] if cls is BatchNormLSTM else states).sum()

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, layer.l0.weight_hh), fast_mode=True)
    assert together


@both
def test_many_gradients_at_once(cls: type[RecurrentBase]) -> None:
    layer, x = (
        lively(cls(2, 3, dtype=torch.float64)),
        torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True),
    )
    output, several = layer(x)[0], torch.randn(2, 4, 3, 3, dtype=torch.float64)
    (batched,) = torch.autograd.grad(output, x, several, retain_graph=True, is_grads_batched=True)
    for got, g in zip(batched, several, strict=True):
        torch.testing.assert_close(got, torch.autograd.grad(output, x, g, retain_graph=True)[0])


@both
def test_forwards_do_not_share_memory(cls: type[RecurrentBase]) -> None:
    """Two forwards before their backwards, and outputs that are written to."""
    layer = cls(2, 3).freeze("batch")
    xs = [torch.randn(3, 4, 2, requires_grad=True) for _ in range(2)]
    outputs = [layer(x)[0] for x in xs]
    for x, output in zip(xs, outputs, strict=True):
        (got,) = torch.autograd.grad(output.mul_(2).sum(), x)
        (want,) = torch.autograd.grad(2 * layer(x)[0].sum(), x)
        torch.testing.assert_close(got, want)


@both
def test_evaluation_keeps_one_step(cls: type[RecurrentBase], together: list[int]) -> None:
    layer, x = lively(cls(3, 4, num_layers=2)).eval(), torch.randn(7, 3, 3)
    with torch.no_grad():
        got = layer(x)
        assert len(together) == 2
        torch.testing.assert_close(got, one_by_one(lambda: layer(x)))
    torch.testing.assert_close(got, layer(x))  # gradients of constant norms are autograd's
    assert len(together) == 2


@both
def test_what_looks_on_sees_every_step(cls: type[RecurrentBase], together: list[int]) -> None:
    layer, x = cls(2, 3), torch.randn(3, 4, 2)
    calls = []
    handle = layer.l0.norm_hh.register_forward_hook(lambda *_: calls.append(1))
    layer(x)
    assert len(calls) == 3
    handle.remove()
    handle = layer.l0.norm_hh.register_full_backward_hook(lambda *_: calls.append(1))
    layer(x)[0].sum().backward()
    assert len(calls) == 6
    handle.remove()
    layer(x, mask=torch.ones(3, 4, dtype=torch.bool))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        layer(x)
    layer.bfloat16()(x.bfloat16())
    assert not together
    layer.float()(x)
    assert together


def test_a_frozen_norm_among_others(together: list[int]) -> None:
    """Constants and batches in one recurrence, where nothing is differentiated."""
    layer, x = lively(BatchNormLSTM(2, 3)), torch.randn(5, 4, 2)
    freeze(layer.l0.norm_c)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        got, want = layer(x), one_by_one(lambda: twin(x))
    assert together
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(layer.state_dict(), twin.state_dict())


def test_statistics_where_nothing_is_recorded() -> None:
    layer = BatchNormGRU(2, 3)
    twin, x = copy.deepcopy(layer), torch.randn(5, 4, 2)
    with torch.no_grad():
        layer(x)
    twin(x)
    torch.testing.assert_close(layer.state_dict(), twin.state_dict())


@both
@pytest.mark.parametrize("apart", ["with a hook", "frozen"])
def test_inputs_whose_norm_stands_apart(cls: type[RecurrentBase], apart: str, together: list[int]) -> None:
    """Where the norm of W_x·x has to be called, or running statistics normalise there, the rest is one operation."""
    layer, x, calls = lively(cls(2, 3, dtype=torch.float64)), torch.randn(5, 4, 2, dtype=torch.float64), []
    if apart == "frozen":
        freeze(layer.l0.norm_ih)
    twin = copy.deepcopy(layer)
    if apart == "with a hook":
        layer.l0.norm_ih.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        got = layer(x)[0]
        torch.testing.assert_close(got, one_by_one(lambda: twin(x))[0])
    assert together == [1]
    assert len(calls) == (apart == "with a hook")
    torch.testing.assert_close(layer.state_dict(), twin.state_dict())
    assert got.untyped_storage().nbytes() == got.nbytes
