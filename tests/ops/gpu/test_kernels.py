"""The kernels against float64: on a GPU, or one program after another on the CPU (see test_interpreted)."""

from __future__ import annotations

import os
from dataclasses import fields
from itertools import product

import pytest
import torch
from tests.contracts.backend import ODD, OPTIONS, SHAPES, BackendContract
from tests.ops.product import Case, case, compare, measured, oracle, pairwise

from normsmith.ops import ACTIVATIONS, Moments, Renorm, Running, batch_norm, commit
from normsmith.ops.call import Call, promoted
from normsmith.ops.gpu import plan as planning
from normsmith.ops.gpu.backend import Triton
from normsmith.ops.moments import ghost_groups
from normsmith.ops.reference import Reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

pytestmark = [
    pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),  # inf − inf says numpy
]

TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""bfloat16 has eight bits; the interpreter cuts what it stores: off by one of them at most."""

TRITON, REFERENCE = Triton(), Reference()


def selected():
    """Of the contract's product: every option in float32 (interpreted, on one shape each), and in 16 bits on one."""
    shapes = [shape for shape in ODD if not INTERPRETED or shape.id != "small planes"]  # hundreds of programs
    for number, option in enumerate(OPTIONS):
        for index, shape in enumerate(shapes):
            here = index == number % len(shapes)
            if here or not INTERPRETED:
                yield pytest.param(*shape.values, torch.float32, option, id=f"{shape.id}-fp32-{option}")
            if here:
                half = (torch.bfloat16, torch.float16)[number % 2]
                yield pytest.param(*shape.values, half, option, id=f"{shape.id}-{half}-{option}")


class TestTriton(BackendContract):
    """The contract, as far as it speaks of float32."""

    backend = TRITON

    @pytest.fixture(autouse=True)
    def _on_device(self):
        with torch.device(DEVICE):
            yield

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("mean", [0.0, 1e4])
    def test_forward_and_gradient_equal_the_definition(self, shape, mean):
        super().test_forward_and_gradient_equal_the_definition(shape, mean, torch.float32)

    @pytest.mark.parametrize(("shape", "dtype", "options"), list(selected()))
    def test_options_equal_the_oracle(self, shape, dtype, options):
        super().test_options_equal_the_oracle(shape, dtype, options)

    def test_renorm_is_another_scale_and_shift(self):
        agree((8, 3), renorm=True)

    def test_nothing_kept_shares_memory_with_a_running_buffer(self):
        running = Running(torch.zeros(3), torch.ones(3))
        for call in (Call(renorm=Renorm(3.0, 5.0)), Call(by_batch=False)):
            kept = TRITON.forward(torch.randn(8, 3), None, None, None, running, call).kept
            tensors = [t for t in (*kept.resolved, kept.scale, kept.shift) if isinstance(t, torch.Tensor)]
            buffers = {running.mean.untyped_storage().data_ptr(), running.var.untyped_storage().data_ptr()}
            assert not buffers & {t.untyped_storage().data_ptr() for t in tensors}


class Alone:
    """A group of one rank: what a sync exchanges comes back as it went."""

    def merge(self, moments):
        return moments

    def sum(self, tensor):
        return tensor.clone()


def agree(
    shape, dtype=torch.float32, *, channels_last=False, mask=False, weight=False, ghost=None, renorm=False,
    activation=None, residual=False, mean=0.0, by_batch=True, sync=None, wants_x=True,
):  # fmt: skip
    """Forward, moments and backward against the reference in float64."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator, device="cpu").to(DEVICE)

    def even(*size):
        return torch.rand(*size, generator=generator, device="cpu").to(DEVICE)

    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, g = ((normal(*shape) + m).to(dtype).contiguous(memory_format=layout) for m in (mean, 0.0))
    z = normal(*shape).to(dtype) if residual else None
    elements = (shape[0], 1, *shape[2:])
    valid = even(*elements) < 0.7 if mask else None
    weights = even(shape[0], *[1] * (len(shape) - 1)) + 0.1 if weight else None
    if valid is not None:
        x = torch.where(valid, x, torch.nan)
        weights = torch.where(valid, 1.0 if weights is None else weights, 0.0)
    call = Call(
        by_batch,
        renorm=Renorm(1.5, 0.5) if renorm else None,
        valid=valid,
        weights=weights if by_batch else None,
        groups=ghost_groups(shape[0], x[0, 0].numel(), ghost) if by_batch else None,
        activation=None if activation is None else ACTIVATIONS[activation],
        sync=sync,
    )
    affine = (even(shape[1]) + 0.5, normal(shape[1]))
    running = Running(normal(shape[1]) + mean, even(shape[1]) + 0.5)
    assert TRITON.supports(x, call) is None
    y, kept, moments = TRITON.forward(x, *affine, z, running, call)
    dx, dz, grads = TRITON.backward(g, x, z, kept, call, wants_x)

    exact_call = call._replace(weights=None if call.weights is None else call.weights.double(), sync=None)
    exact = promoted(x.double(), None if z is None else z.double(), valid)
    exact_running = Running(running.mean.double(), running.var.double())
    exact_affine = [vector.double() for vector in affine]
    want, want_kept, want_moments = REFERENCE.forward(
        exact[0], *exact_affine, exact[1], exact_running, exact_call
    )
    want_dx, want_dz, want_grads = REFERENCE.backward(g.double(), *exact, want_kept, exact_call, True)
    assert (y.dtype, y.stride()) == (dtype, x.stride())
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(y.double(), want, rtol=tolerance, atol=tolerance)
    pairs = [(grads.weight, want_grads.weight), (grads.bias, want_grads.bias)]
    if wants_x:
        pairs += [(dx, want_dx), *([(dz, want_dz)] if residual else [])]
    for got, right in pairs:
        scale = right.abs().max().clamp(min=1.0)
        torch.testing.assert_close(
            got.double() / scale, right / scale, rtol=2 * tolerance, atol=2 * tolerance
        )
    if by_batch:
        found = moments.mean.double() + moments.low
        torch.testing.assert_close(found, want_moments.mean, rtol=1e-9, atol=1e-6)
        torch.testing.assert_close(moments.m2.double(), want_moments.m2, rtol=1e-5, atol=1e-5)
        for got, right in ((moments.count, want_moments.count), (moments.squares, want_moments.squares)):
            torch.testing.assert_close(
                torch.as_tensor(got).double(), torch.as_tensor(right).double(), rtol=1e-6, atol=1e-6
            )


REGIMES = ["one launch, held", "one launch, read again", "split"]


@pytest.fixture(params=REGIMES)
def regime(request, monkeypatch):
    """Shapes too small to reach a regime by themselves are sent there."""
    if request.param != "one launch, held":
        monkeypatch.setattr(planning, "HELD", 0)
        monkeypatch.setattr(planning, "GRAIN", 1)
    if request.param == "split":
        monkeypatch.setattr(planning, "SMALL", 0)
        monkeypatch.setattr(planning, "CACHE", 0)
    planning.plan.cache_clear()
    yield
    planning.plan.cache_clear()


LAYOUTS = [
    pytest.param((22, 5), {}, id="rows: more than a tile is high"),
    pytest.param((9, 3, 7), {}, id="short planes: strips when split"),
    pytest.param((3, 2, 300), {}, id="long planes: more than a chunk"),
    pytest.param((4, 3, 3, 5), {"channels_last": True}, id="channels last"),
]


def in_every_regime(layouts, ways):
    """Each layout in each way in each regime, every other one under `full`: each pair of them is in both halves."""
    cases = product(enumerate(REGIMES), enumerate(layouts), enumerate(ways.items()))
    return pytest.mark.parametrize(
        ("regime", "shape", "options"),
        [
            pytest.param(
                regime,
                layout.values[0],
                {**layout.values[1], **way},
                id=f"{regime}-{layout.id}-{name}",
                marks=[] if (one + two + three) % 2 == 0 else pytest.mark.full,
            )
            for (one, regime), (two, layout), (three, (name, way)) in cases
        ],
        indirect=["regime"],
    )


RELU_OF_A_SUM = {"activation": "relu", "residual": True}
RARE = {"mask": True, "weight": True, "ghost": 2, "renorm": True}
WAYS = {
    "far from 0": {"mean": 1e4},
    "bfloat16": {"dtype": torch.bfloat16, **RELU_OF_A_SUM},
    "all that is rare": {**RARE, **RELU_OF_A_SUM},
    "float16, by running statistics": {
        "dtype": torch.float16,
        "by_batch": False,
        "residual": True,
        "mask": True,
    },
    "ghost batches of a rank": {"mask": True, "ghost": 2, "sync": Alone(), **RELU_OF_A_SUM},
}


@in_every_regime(LAYOUTS, WAYS)
def test_every_regime_of_every_layout(regime, shape, options):
    agree(shape, **options)


OCTETS = [
    pytest.param((9, 3, 8), {}, id="short planes: strips when split"),
    pytest.param((2, 2, 264), {}, id="long planes: more than a chunk"),
    pytest.param((4, 8, 3, 5), {"channels_last": True}, id="channels last"),
]


OCTET_WAYS = {
    "far from 0": {"mean": 1e4},
    "bfloat16, frozen inputs": {"dtype": torch.bfloat16, "wants_x": False},
    "float16, all that is rare": {"dtype": torch.float16, **RARE},
    "ghost batches of a rank": {"ghost": 2, "sync": Alone()},
}


@in_every_regime(OCTETS, OCTET_WAYS)
def test_the_bits_of_relu_stand_for_the_residual(regime, shape, options, monkeypatch):
    """The backward is given no residual to read: NaN instead."""
    backward = TRITON.backward

    def blind(g, x, z, kept, call, wants_x):
        assert kept.bits.numel() == x.numel() / 8
        return backward(g, x, torch.full_like(z, torch.nan), kept, call, wants_x)

    monkeypatch.setattr(TRITON, "backward", blind)
    agree(shape, **RELU_OF_A_SUM, **options)


def test_relu_lets_nan_pass_with_a_residual_too():
    x, z = torch.randn(6, 8, device=DEVICE), torch.zeros(6, 8, device=DEVICE)
    z[2, 3] = torch.nan
    call = Call(activation=ACTIVATIONS["relu"])
    y, kept, _ = TRITON.forward(x, None, None, z, None, call)
    assert y.isnan().nonzero().tolist() == [[2, 3]]
    _, dz, _ = TRITON.backward(torch.ones_like(x), x, z, kept, call, True)
    assert dz[2, 3] == 1.0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    agree((9, 3, 7), activation=activation, residual=True)


def test_large_means_under_a_mask(regime):
    agree((12, 3, 9), mask=True, mean=1e4)


def test_frozen_inputs_take_no_gradient():
    agree((9, 3, 7), wants_x=False, activation="relu")


def test_ghost_batches_of_unequal_size(regime):
    agree((9, 3, 40), ghost=4, activation="relu")


def test_other_memory_orders_are_copied():
    x = torch.randn(3, 8, device=DEVICE).t()
    y = TRITON.forward(x, None, None, None, None, Call()).y
    torch.testing.assert_close(y, REFERENCE.forward(x, None, None, None, None, Call()).y)


def test_groups_without_valid_values_go_by_the_running_statistics():
    x = torch.full((4, 3), torch.nan, device=DEVICE)
    x[0] = 5.0
    valid = torch.tensor([True, False, False, False], device=DEVICE)[:, None]
    running = Running(torch.full((3,), 3.0, device=DEVICE), torch.full((3,), 4.0, device=DEVICE))
    call = Call(eps=0.0, valid=valid, weights=valid.float(), renorm=Renorm(3.0, 5.0))
    y, kept, _ = TRITON.forward(x, None, None, None, running, call)
    torch.testing.assert_close(y, torch.where(valid, 1.0, 0.0).expand(4, 3))
    assert kept.resolved.by_batch.tolist() == [[False]]


def test_moments_of_an_outlier_at_the_start():
    """The first value is no estimate of the mean."""
    x = torch.randn(64, 2, 40, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    x[0, 0, 0] = 1e3
    moments = TRITON.forward(x, None, None, None, None, Call()).moments
    want = x.double().var((0, 2), correction=0)
    torch.testing.assert_close(moments.variance[0].double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row", pairwise(1), ids=str)
def test_the_op_in_every_pair_of_options(row, monkeypatch):
    monkeypatch.setenv("NORMSMITH_BACKEND", "triton")
    data = case(row)
    moved = Case(**{f.name: _moved(getattr(data, f.name)) for f in fields(data)})
    found = measured(row, moved, torch.float32)
    compare(row, [{name: value.cpu() for name, value in found.items()}], oracle(row, data), 1e-5)


def _moved(tensor):
    return None if tensor is None else tensor.to(DEVICE)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("skip", ["skip", "propagate"])
def test_running_statistics_move_as_commit_moves_them(momentum, skip, monkeypatch):
    monkeypatch.setenv("NORMSMITH_BACKEND", "triton")
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    x[2, 1] = torch.inf
    ours, theirs = (
        Running(
            torch.zeros(3, device=DEVICE),
            torch.ones(3, device=DEVICE),
            torch.ones(3, device=DEVICE),
            torch.tensor(4, device=DEVICE),
        )
        for _ in range(2)
    )
    batch_norm(
        x, ours.mean, ours.var, running_std=ours.std, num_batches_tracked=ours.batches, momentum=momentum,
        on_nonfinite=skip,
    )  # fmt: skip
    moments: Moments | None = REFERENCE.forward(x, None, None, None, None, Call()).moments
    commit(theirs, moments, momentum=momentum, on_nonfinite=skip)
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)
        assert got._version > 0  # who has saved it for backward gets an error


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
class TestOnTheDevice:
    def test_results_repeat_to_the_last_bit(self):
        x = torch.randn(64, 32, 56, 56, device="cuda")
        calls = [TRITON.forward(x, None, None, None, None, Call()) for _ in range(3)]
        assert all(torch.equal(call.y, calls[0].y) for call in calls)

    def test_another_stream(self):
        x = torch.randn(64, 32, 28, 28, device="cuda")
        want = REFERENCE.forward(x, None, None, None, None, Call()).y
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            y = TRITON.forward(x, None, None, None, None, Call()).y
        torch.cuda.current_stream().wait_stream(stream)
        torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)

    def test_a_graph_replays_it(self):
        x = torch.randn(32, 16, 28, 28, device="cuda")
        mean, var = torch.zeros(16, device="cuda"), torch.ones(16, device="cuda")
        batch_norm(x, mean, var)  # compiled before it is captured
        mean.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = batch_norm(x, mean, var)
        x.normal_(3.0)
        graph.replay()
        torch.testing.assert_close(
            y, REFERENCE.forward(x, None, None, None, None, Call()).y, rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(mean, 0.1 * x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)

    def test_more_than_two_to_the_31_elements(self):
        if torch.cuda.mem_get_info()[0] < 24 * 2**30:
            pytest.skip("needs 24 GB")
        x = torch.zeros(2**17 + 8, 2, 2**13, dtype=torch.bfloat16, device="cuda")
        x[-1], x[0] = 1.0, -1.0
        y = TRITON.forward(x, None, None, None, None, Call(eps=0.0)).y
        want = (x.shape[0] / 2) ** 0.5
        assert y[-1].float().sub(want).abs().max() < 0.01 * want
        assert y[0].float().add(want).abs().max() < 0.01 * want
        assert y[2**16].abs().max() < 1e-3

    def test_under_autocast(self):
        x = torch.randn(8, 4, 14, 14, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        weight = torch.ones(4, device="cuda", requires_grad=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = batch_norm(x, weight=weight)
        y.float().square().sum().backward()
        assert (y.dtype, x.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


@pytest.mark.parametrize("op", ["bn", "bn+relu", "bn+add+relu", "renorm"])
def test_the_benchmark_finds_the_op_right_and_a_wrong_one_wrong(op, monkeypatch):
    from benchmarks import gpu_rows

    monkeypatch.setenv("NORMSMITH_BACKEND", "triton")
    monkeypatch.setattr(gpu_rows, "DEVICE", DEVICE)
    row = gpu_rows.Row((6, 3, 5, 4), torch.float32, op=op)
    assert list(gpu_rows.wrong(row)) == []
    off = gpu_rows.ours(row)
    monkeypatch.setattr(gpu_rows, "ours", lambda row: lambda i: off(i) * 1.001)
    assert list(gpu_rows.wrong(row))


def test_the_composed_peer_is_renorm(monkeypatch):
    from benchmarks import gpu_rows

    monkeypatch.setenv("NORMSMITH_BACKEND", "triton")
    monkeypatch.setattr(gpu_rows, "DEVICE", DEVICE)
    row = gpu_rows.Row((6, 3, 5, 4), torch.float32, op="renorm")
    ours, theirs = gpu_rows.inputs(row, 2.0), gpu_rows.inputs(row, 2.0)
    torch.testing.assert_close(gpu_rows.ours(row)(ours), gpu_rows.composed(theirs), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.var, theirs.var, rtol=1e-4, atol=1e-5)
