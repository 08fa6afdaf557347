"""Recurrent layers among torch's other tools: checkpoints, dtypes, transforms, the compiler, export."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from tests.layers.recurrences import (
    both,
)
from torch.utils.checkpoint import checkpoint

from normsmith.layers import use_mask
from normsmith.layers.recurrent import RecurrentBase


@both
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("normalize", ["all", "input"])
def test_checkpointing_changes_nothing(cls: type[RecurrentBase], reentrant: bool, normalize: str) -> None:
    plain = cls(3, 4, num_layers=2, bidirectional=True, normalize=normalize)
    again = copy.deepcopy(plain)
    x = torch.randn(5, 6, 3, requires_grad=True)
    # the last step is reached by one sequence: the statistics before the update normalise it
    mask = torch.arange(5).unsqueeze(1) < torch.tensor([5, 4, 4, 3, 2, 1])
    output, _ = plain(x, mask=mask)
    wanted = torch.autograd.grad(output.square().sum(), [x, *plain.parameters()])
    with use_mask(again, mask):
        output = checkpoint(lambda x: again(x)[0], x, use_reentrant=reentrant)
    output.square().sum().backward()
    for got, expected in zip([x.grad, *(p.grad for p in again.parameters())], wanted, strict=True):
        torch.testing.assert_close(got, expected)
    for key, value in again.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[key])


@both
def test_state_pickle_and_copies(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, num_layers=2, bidirectional=True)
    layer(torch.randn(4, 6, 3))
    layer.eval()
    x = torch.randn(4, 6, 3)
    expected = layer(x)[0]
    twin = cls(3, 4, num_layers=2, bidirectional=True).eval()
    assert not torch.allclose(twin(x)[0], expected)
    stored = io.BytesIO()
    torch.save(layer.state_dict(), stored)
    stored.seek(0)
    twin.load_state_dict(torch.load(stored, weights_only=True))
    for other in (twin, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], expected)


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_statistics_in_float32(cls: type[RecurrentBase], dtype: torch.dtype) -> None:
    layer = cls(3, 4, dtype=dtype)
    x = torch.randn(5, 8, 3, dtype=dtype)
    mask = torch.arange(5).unsqueeze(1) < torch.tensor([5, 5, 4, 3, 3, 2, 2, 1])
    for given in (None, mask):
        output, _ = layer(x, mask=given)
        assert output.dtype == dtype
        output.sum().backward()
    assert all(norm.running_var.dtype == torch.float32 for norm in layer._norms())
    assert all(norm.running_var.dtype == torch.float64 for norm in copy.deepcopy(layer).double()._norms())
    assert layer.half().l0.norm_hh.running_mean.dtype == torch.float32
    reference = copy.deepcopy(layer).double().eval()
    torch.testing.assert_close(
        layer.to(dtype).eval()(x)[0].double(), reference(x.double())[0], rtol=0.05, atol=0.02
    )


@both
def test_autocast(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = layer(torch.randn(4, 6, 3))
    output.float().sum().backward()
    assert layer.l0.norm_hh.running_var.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@both
def test_meta_device(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, device="meta", bidirectional=True)
    assert all(tensor.is_meta for tensor in layer.state_dict().values())
    assert layer(torch.empty(5, 2, 3, device="meta"))[0].shape == (5, 2, 8)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batching rule for lerp_
@both
def test_vmap_over_stacked_models(cls: type[RecurrentBase]) -> None:
    models = [cls(3, 4) for _ in range(2)]
    x = torch.randn(4, 6, 3)
    singles = [copy.deepcopy(model) for model in models]
    expected = torch.stack([single(x)[0] for single in singles])
    parameters, buffers = torch.func.stack_module_state(models)  # type: ignore[arg-type]
    got = torch.func.vmap(
        lambda p, b: torch.func.functional_call(models[0], (p, b), (x,))[0]  # type: ignore[attr-defined]
    )(parameters, buffers)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(
        buffers["l0.norm_hh.running_var"], torch.stack([s.l0.norm_hh.running_var for s in singles])
    )


@pytest.mark.compiles
@both
def test_compiles_without_a_graph_break(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    mask = torch.arange(3).unsqueeze(1) < torch.tensor([3, 2, 2, 1])
    x = torch.randn(3, 4, 3)
    for training in (True, False):
        layer.train(training)
        twin.train(training)
        got, wanted = compiled(x, mask=mask)[0], layer(x, mask=mask)[0]
        torch.testing.assert_close(got, wanted)
        for loss, module in ((got, twin), (wanted, layer)):
            module.zero_grad()
            loss.square().sum().backward()
        for parameter, other in zip(twin.parameters(), layer.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, other.grad)
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(value, layer.state_dict()[key])


@pytest.mark.compiles
@both
def test_exports(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, batch_first=True)
    layer(torch.randn(6, 4, 3))
    layer.eval()
    x = torch.randn(6, 4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its decompositions
        program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x)[0], layer(x)[0])
