"""The kernels as operators of compiled graphs: by torch's rules, as right as in eager mode, and nowhere else."""

from __future__ import annotations

import copy

import pytest
import torch
from functorch.compile import make_boxed_func
from tests.contracts.backend import OPTIONS, options_for
from torch._dynamo.backends.common import aot_autograd

from normsmith.layers import BatchNorm1d, BatchNorm2d, BatchNormAct2d, BatchRenorm2d
from normsmith.ops import batch_norm
from normsmith.ops._check import make_call
from normsmith.ops.cpu import compiled_graphs

FORWARD = "normsmith.batch_norm_v1.default"
BACKWARD = "normsmith.batch_norm_backward_v1.default"


@pytest.fixture
def at_any_size(monkeypatch):
    monkeypatch.setattr(compiled_graphs, "RELU_FROM", 0)
    monkeypatch.setattr(compiled_graphs, "PLAIN_FROM", 0)
    torch._dynamo.reset()


def operators(layer, x, **options):
    """Names of what a compiled training step calls, forward and backward."""
    names = []

    def noted(module, _):
        names.extend(str(node.target) for node in module.graph.nodes if node.op == "call_function")
        return make_boxed_func(module)

    torch._dynamo.reset()
    compiled = torch.compile(
        layer, fullgraph=True, backend=aot_autograd(fw_compiler=noted, bw_compiler=noted)
    )
    y = compiled(x, **options)
    if y.requires_grad:
        y.sum().backward()
    return names


# torch 2.15 warns so within its own check
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("option", ["residual, relu", "mask", "weights", "ghost", "renorm", "relu"])
@pytest.mark.parametrize("shape", [(12, 5), (6, 3, 4, 5)])
def test_is_an_operator_by_torchs_rules(shape, option):
    x = torch.randn(shape)
    call = make_call(x, **options_for(x, OPTIONS[option]))
    size, number = (shape[0], 1) if call.groups is None else (call.groups.size, call.groups.number)
    bounds = torch.tensor([1.5, 0.5], dtype=torch.float64) if call.renorm is not None else None
    vectors = [torch.rand(shape[1]) + 0.5 for _ in range(4)]
    weight, bias = (vector.requires_grad_() for vector in vectors[:2])
    residual = torch.randn(shape, requires_grad=True) if "residual" in option else None
    arguments = (
        x.nan_to_num().requires_grad_(),
        weight,
        bias,
        residual,
        *vectors[2:],
        None,
        call.valid,
        call.weights,
        bounds,
        1e-5,
        call.activation is not None,
        size,
        number,
    )
    torch.library.opcheck(torch.ops.normsmith.batch_norm_v1.default, arguments)


@pytest.mark.parametrize("wants", [(True, True), (False, False)])
def test_its_backward_is_one_too(wants):
    x = torch.randn(6, 3, 4, 5)
    y, statistics = torch.ops.normsmith.batch_norm_v1(x, *[None] * 9, 1e-5, True, 6, 1)
    arguments = (torch.randn_like(x), x, y, statistics, None, None, False, 6, 1, *wants)
    torch.library.opcheck(torch.ops.normsmith.batch_norm_backward_v1.default, arguments)


LAYOUTS = torch.contiguous_format, torch.channels_last
OPTIONS_AND_LAYOUTS = [
    pytest.param(
        option,
        layout,
        id=f"{option}-{layout}",
        marks=[] if layout == LAYOUTS[number % 2] else pytest.mark.full,
    )
    for number, option in enumerate(OPTIONS)
    for layout in LAYOUTS
]


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # of torch, at an import
class TestCompiled:
    @pytest.mark.parametrize(("option", "layout"), OPTIONS_AND_LAYOUTS)
    def test_equals_eager_mode(self, option, layout, at_any_size):
        x = torch.randn(8, 5, 6, 7).to(memory_format=layout)
        options = options_for(x, OPTIONS[option])
        if "residual" in option:
            options["residual"] = torch.randn_like(x)
        results = []
        for function in (batch_norm, torch.compile(batch_norm, fullgraph=True, backend="aot_eager")):
            inputs = [x.clone().requires_grad_(), torch.rand(5).requires_grad_()]
            with torch.no_grad():
                inputs[1].copy_(torch.linspace(0.5, 2, 5))
            buffers = torch.linspace(-1, 1, 5), torch.linspace(0.5, 2, 5)
            y = function(inputs[0], *buffers, inputs[1], **options)
            gradients = torch.autograd.grad(y.square().sum(), inputs)
            assert gradients[0].stride() == x.stride()
            results.append([y, *gradients, *buffers])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("dtype", compiled_graphs.DTYPES, ids=str)
    def test_keeps_the_dtype(self, dtype, at_any_size):
        layer = BatchNormAct2d(4, activation="relu")
        twin, x = copy.deepcopy(layer), torch.randn(6, 4, 5, 5, dtype=dtype)
        one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        y = torch.compile(layer, fullgraph=True, backend="aot_eager")(one, residual=x)
        want = twin(other, residual=x)
        y.sum().backward()
        want.sum().backward()
        torch.testing.assert_close(y, want)
        assert one.grad.dtype == dtype
        torch.testing.assert_close(one.grad, other.grad)
        torch.testing.assert_close(layer.weight.grad, twin.weight.grad, rtol=1e-4, atol=1e-4)

    def test_inductor_calls_it(self, at_any_size):
        """The one test that goes through torch's own code generator."""
        layer = BatchRenorm2d(4, total_steps=9)
        twin, x = copy.deepcopy(layer), torch.randn(6, 4, 5, 5)
        compiled = torch.compile(layer, fullgraph=True)
        for _ in range(2):
            one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
            y, want = compiled(one), twin(other)
            y.square().sum().backward()
            want.square().sum().backward()
            torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
        for key, value in twin.state_dict().items():
            torch.testing.assert_close(layer.state_dict()[key], value)

    def test_batches_of_changing_size_share_a_graph(self, at_any_size):
        layer, graphs = BatchNorm1d(3, ghost_batch_size=4), []
        twin = copy.deepcopy(layer)

        def counted(module, _):
            graphs.append(module)
            return module

        compiled = torch.compile(layer, fullgraph=True, backend=counted, dynamic=True)
        for rows in (8, 12, 20, 16):
            x = torch.randn(rows, 3)
            torch.testing.assert_close(compiled(x), twin(x))
            torch.testing.assert_close(layer.running_var, twin.running_var)
        assert len(graphs) == 1

    def test_only_where_it_is_faster(self):
        relu, plain = BatchNormAct2d(8, activation="relu"), BatchNorm2d(8)
        large = torch.randn(16, 8, 16, 16)
        assert operators(relu, large).count(FORWARD) == operators(relu, large).count(BACKWARD) == 1
        assert FORWARD not in operators(relu, large[:1, :, :8, :8])
        assert FORWARD not in operators(plain, large)
        assert FORWARD in operators(plain, torch.randn(16, 8, 128, 128))
        assert FORWARD not in operators(relu.eval(), large)

    def test_the_environment_decides_here_too(self, at_any_size, monkeypatch):
        monkeypatch.setenv("NORMSMITH_BACKEND", "reference")
        assert FORWARD not in operators(BatchNorm2d(8), torch.randn(4, 8, 4, 4))
        monkeypatch.setenv("NORMSMITH_BACKEND", "numba")
        assert FORWARD in operators(BatchNorm2d(8), torch.randn(4, 8, 4, 4))

    def test_exported_programs_do_without(self, at_any_size):
        program = torch.export.export(BatchNorm2d(8), (torch.randn(4, 8, 4, 4),), strict=False)
        assert not any("normsmith" in str(node.target) for node in program.graph.nodes)

    def test_transforms_see_through(self, at_any_size):
        layer = BatchNorm1d(3, track_running_stats=False)
        x = torch.randn(5, 4, 3)
        batched = torch.compile(torch.func.vmap(layer), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(batched(x), torch.stack([layer(part) for part in x]))

        def loss(batch):
            return layer(batch).pow(3).sum()

        slope = torch.compile(torch.func.grad(loss), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(slope(x[0]), torch.func.grad(loss)(x[0]), rtol=1e-4, atol=1e-4)
