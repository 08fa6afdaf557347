"""The kernels' operators by torch's rules, and compiled graphs as right as eager mode: on a GPU, or interpreted."""

from __future__ import annotations

import os

import pytest
import torch
from tests.contracts.backend import OPTIONS, options_for

from normsmith.layers import BatchNorm1d
from normsmith.ops import batch_norm
from normsmith.ops._check import make_call

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

pytestmark = [
    pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning"),  # says torch on Python 3.13.0
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),  # inf − inf says numpy
    pytest.mark.filterwarnings(
        "ignore:.*torch.jit.script_method:DeprecationWarning"
    ),  # of torch, at an import
]


def on_one(options, shapes):
    """Each option, with one of the shapes in turn; with the others under `full`."""
    return [
        pytest.param(option, shape, marks=[] if number % len(shapes) == index else pytest.mark.full)
        for number, option in enumerate(options)
        for index, shape in enumerate(shapes)
    ]


@pytest.fixture(autouse=True)
def _chosen(monkeypatch):
    monkeypatch.setenv("NORMSMITH_BACKEND", "triton")
    torch._dynamo.reset()
    with torch.device(DEVICE):
        yield


@pytest.fixture
def operators():
    """The operators of the graphs: defined where the kernels can run."""
    from normsmith.ops.gpu import compiled_graphs  # noqa: F401

    return torch.ops.normsmith


# torch 2.15 warns so within its own check
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    ("option", "shape"), on_one(["residual, relu", "mask", "ghost", "renorm", "gelu"], [(6, 5), (6, 2, 8)])
)
def test_is_an_operator_by_torchs_rules(shape, option, operators):
    from normsmith.ops.compiling import chunks
    from normsmith.ops.gpu import launch

    x = torch.randn(shape)
    call = make_call(x, **options_for(x, OPTIONS[option]))
    vectors = [torch.rand(shape[1]) + 0.5 for _ in range(4)]
    residual = torch.randn(shape, requires_grad=True) if "residual" in option else None
    arguments = (
        x.nan_to_num().requires_grad_(),
        *(vector.requires_grad_() for vector in vectors[:2]),
        residual,
        *vectors[2:],
        None,
        launch.weighed(x, call.valid, call.weights),
        torch.tensor([1.5, 0.5]) if call.renorm is not None else None,
        1e-5,
        launch.name_of(call.activation),
        *chunks(x, call),
    )
    torch.library.opcheck(operators.triton_batch_norm_v1.default, arguments)


@pytest.mark.parametrize(
    ("option", "shape"), on_one([name for name in OPTIONS if "running" not in name], [(8, 5), (8, 2, 4, 2)])
)
def test_equals_the_definition_in_float64(shape, option):
    x, (weight, bias) = torch.randn(shape), torch.rand(2, shape[1])
    options = options_for(x, OPTIONS[option])
    if "residual" in option:
        options["residual"] = torch.randn_like(x)
    results = []
    for function, dtype in (
        (torch.compile(batch_norm, fullgraph=True, backend="aot_eager"), torch.float32),
        (batch_norm, torch.float64),
    ):
        inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in (x, weight, bias)]
        if "residual" in options:
            inputs.append(options["residual"].detach().to(dtype).requires_grad_())
            options["residual"] = inputs[-1]
        buffers = [torch.linspace(low, 2, shape[1], dtype=dtype) for low in (-1, 0.5)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NORMSMITH_BACKEND", "triton" if dtype == torch.float32 else "reference")
            y = function(inputs[0], *buffers, *inputs[1:3], **options)
        gradients = torch.autograd.grad(y.square().sum(), inputs)
        results.append([tensor.double() for tensor in (y, *gradients, *buffers)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_gradients_keep_the_dtypes_and_the_memory_order_of_eager_mode():
    found = []
    for function in (batch_norm, torch.compile(batch_norm, fullgraph=True, backend="aot_eager")):
        generator = torch.Generator(DEVICE).manual_seed(0)
        x, z = (torch.randn(4, 8, 3, 5, generator=generator) for _ in range(2))
        x = x.to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
        inputs = [x, z.requires_grad_(), torch.linspace(0.5, 2, 8, requires_grad=True)]
        mask = torch.arange(4 * 3 * 5).view(4, 3, 5) % 4 > 0
        y = function(x, weight=inputs[2], residual=z, mask=mask, activation="silu")
        found.append([y, *torch.autograd.grad(y.float().square().sum(), inputs)])
    for one, other in zip(*found, strict=True):
        assert (one.dtype, one.stride()) == (other.dtype, other.stride())
        torch.testing.assert_close(one, other)


def test_batches_of_changing_size_share_a_graph():
    layer, graphs = BatchNorm1d(3, ghost_batch_size=4), []
    layer.to(DEVICE)

    def counted(module, _):
        graphs.append(module)
        return module

    compiled = torch.compile(layer, fullgraph=True, backend=counted, dynamic=True)
    for rows in (8, 12, 20):
        x = torch.randn(rows, 3)
        mean = layer.running_mean.clone()
        y = compiled(x)
        chunk = x[:4].double()
        want = (chunk - chunk.mean(0)) * (chunk.var(0, correction=0) + layer.eps).rsqrt()
        torch.testing.assert_close(y[:4].double(), want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.running_mean, mean.lerp(x.mean(0), 0.1))
    assert len(graphs) == 1
