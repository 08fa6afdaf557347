"""What `torch.compile` sees of the kernels, known without a GPU: their launches in its graphs, and Inductor's code."""

from __future__ import annotations

import importlib.util
import re
from types import SimpleNamespace

import pytest
import torch
from functorch.compile import make_boxed_func
from tests.contracts.backend import OPTIONS, options_for
from tests.ops.gpu.test_ahead_of_time import H200, Compiled, Target, in_registers, wide
from torch._dynamo.backends.common import aot_autograd

from normsmith.layers import BatchNorm1d, BatchNorm2d
from normsmith.ops import batch_norm, explain
from normsmith.ops.gpu import backend

triton = pytest.importorskip("triton", minversion="3.6")  # older ones the row refuses
pytestmark = [
    pytest.mark.compiles,  # without the shape checker, which would rewrite the kernels
    pytest.mark.filterwarnings(
        "ignore:.*torch.jit.script_method:DeprecationWarning"
    ),  # of torch, at an import
]

LAUNCH = "triton_kernel_wrapper_functional"


@pytest.fixture(autouse=True)
def _as_a_gpu(monkeypatch):
    """The CPU stands in for a GPU: graphs are recorded, and never run."""
    from triton.runtime import driver

    from normsmith.ops.gpu import launch

    monkeypatch.setattr(backend, "_unfit", lambda device: None)
    monkeypatch.setattr(launch, "processors", lambda device: H200)
    monkeypatch.setattr(driver, "_active", Target(90))
    monkeypatch.setenv("NORMSMITH_BACKEND", "triton")
    torch._dynamo.reset()


def sized(number):
    return number.node.hint if isinstance(number, torch.SymInt) else number


def recorded(function, *inputs, dynamic=None, **options):
    """The graphs of forward and backward. What they return is not computed: zeros of the right shape."""
    graphs = []

    def noted(module, _):
        graphs.append(module)
        found = [node and node.meta["val"] for node in module.graph.find_nodes(op="output")[0].args[0]]

        def run(*_):
            return [
                torch.zeros([sized(n) for n in value.shape], dtype=value.dtype)
                if isinstance(value, torch.Tensor)
                else sized(value)
                for value in found
            ]

        return make_boxed_func(run)

    compiled = torch.compile(
        function, fullgraph=True, dynamic=dynamic, backend=aot_autograd(fw_compiler=noted, bw_compiler=noted)
    )
    y = compiled(*inputs, **options)
    if y.requires_grad:
        y.sum().backward()
    return graphs


def names(module):
    return [str(node.target) for node in module.graph.nodes if node.op == "call_function"]


def launched(module):
    """Names of the kernels that a graph launches."""
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

    nodes = [node for node in module.graph.nodes if LAUNCH in str(node.target)]
    kernels = [kernel_side_table.get_kernel(node.kwargs["kernel_idx"]) for node in nodes]
    return [getattr(kernel, "fn", kernel).__name__ for kernel in kernels]


class TestGraphs:
    @pytest.mark.parametrize("option", [option for option in OPTIONS if "running" not in option])
    def test_hold_the_launches_themselves(self, option):
        x = torch.randn(16, 8, 5, 4)
        options = options_for(x, OPTIONS[option])
        if "residual" in option:
            options["residual"] = torch.randn(x.shape, requires_grad=True)
        running = torch.zeros(8), torch.ones(8)
        graphs = recorded(batch_norm, x.requires_grad_(), *running, **options)
        assert [launched(graph) for graph in graphs] == [["forward_at_once"], ["backward_at_once"]]
        assert not any("opaque" in name for graph in graphs for name in names(graph))

    def test_of_large_batches_hold_three_launches_each_and_no_residual(self):
        x = torch.zeros(8, 16, 112, 112, requires_grad=True)
        z = torch.zeros(x.shape, requires_grad=True)
        forward, backward = recorded(batch_norm, x, activation="relu", residual=z)
        assert launched(forward) == ["measure_parts", "settle_parts", "apply"]
        assert launched(backward) == ["reduce_parts", "settle_sums", "gradient"]
        saved = [node.meta["val"] for node in backward.graph.find_nodes(op="placeholder")]
        assert sum(value.shape == x.shape for value in saved) == 2  # x and the gradient

    def test_of_changing_sizes_hold_an_operator(self):
        layer = BatchNorm1d(3, ghost_batch_size=4)
        x = torch.randn(8, 3, requires_grad=True)
        forward, backward = recorded(layer, x, dynamic=True)
        assert names(forward).count("normsmith.triton_batch_norm_v1_opaque.default") == 1
        assert names(backward).count("normsmith.triton_batch_norm_backward_v1_opaque.default") == 1

    def test_hold_nothing_of_it_where_others_do_better(self, monkeypatch):
        monkeypatch.delenv("NORMSMITH_BACKEND")
        monkeypatch.setattr("normsmith.ops.cpu.compiled_graphs.PLAIN_FROM", 2**40)
        x = torch.randn(16, 8, 5, 4)
        assert launched(recorded(BatchNorm2d(8).eval(), x)[0]) == []
        assert launched(recorded(BatchNorm2d(8), x.double())[0]) == []
        assert launched(recorded(BatchNorm2d(8), x)[0]) == ["forward_at_once"]
        program = torch.export.export(BatchNorm2d(8), (x,), strict=False)
        assert not any("triton" in str(node.target) for node in program.graph.nodes)

    def test_are_told_apart_on_disk_by_the_sources_of_the_kernels(self):
        from torch._library.triton import get_triton_kernels_for_op

        from normsmith.ops.gpu import compiled_graphs

        for name in ("normsmith::triton_batch_norm_v1", "normsmith::triton_batch_norm_backward_v1"):
            assert set(get_triton_kernels_for_op(name)) == set(compiled_graphs._KERNELS)
        kernels = [
            value for value in vars(compiled_graphs).values() if isinstance(value, triton.runtime.JITFunction)
        ]
        assert set(kernels) == set(compiled_graphs._KERNELS)


def test_explain_tells_what_a_compiled_graph_does(monkeypatch):
    monkeypatch.delenv("NORMSMITH_BACKEND")
    monkeypatch.setattr("normsmith.ops.cpu.compiled_graphs.PLAIN_FROM", 2**40)
    x = torch.randn(16, 8, 5, 4)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert "triton: taken" in explain(x)
    assert "triton: compilers fuse inference with its neighbours" in explain(x, normalize_with="running")
    assert "triton: knows plain tensors of float32, bfloat16, float16, got Tensor, torch.float64" in explain(
        x.double()
    )


@pytest.fixture
def inductor(monkeypatch, tmp_path):
    """What Inductor makes of an operator's graph on a GPU, as far as it goes without one: its kernels, compiled."""
    from torch._dynamo import device_interface
    from torch._inductor.runtime import triton_heuristics

    device = SimpleNamespace(
        type="cuda", name="H200", major=9, minor=0, multi_processor_count=H200, regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32, total_memory=2**37,
    )  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.zeros(16, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
    monkeypatch.setattr("torch._inductor.scheduler.has_triton", lambda: True)
    interface = device_interface.get_interface_for_device("cuda")
    for place in (interface, interface.Worker):
        monkeypatch.setattr(place, "get_device_properties", staticmethod(lambda *_: device))
    monkeypatch.setattr(interface.Worker, "current_device", staticmethod(lambda: 0))

    def kept(**options):
        def noted(kernel):
            kernel.options = options
            return kernel

        return noted

    monkeypatch.setattr(triton_heuristics, "user_autotune", kept)

    def kernels(function, *inputs):
        text = _code(function, *inputs)
        found = re.findall(
            r"^(\w+) = async_compile\.triton\('(\w+)', '''\n(.*?)'''", text, re.DOTALL | re.MULTILINE
        )
        return [
            _compiled(name, source, tmp_path / f"{unique}.py")
            for unique, name, source in found
            if "user_autotune" in source
        ]

    yield kernels
    torch.utils._triton.has_triton.cache_clear()  # it may have asked the device that is none


def _code(function, *inputs):
    """The code that Inductor generates for a function of fake tensors."""
    from torch._guards import TracingContext, tracing
    from torch._inductor.debug import DebugContext
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.fx_passes import post_grad
    from torch._inductor.fx_passes.reinplace import reinplace_inplaceable_ops
    from torch._inductor.fx_utils import FakeTensorUpdater
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch.fx.experimental.proxy_tensor import make_fx

    found = []

    def lowered(module, arguments):
        reinplace_inplaceable_ops(FakeTensorUpdater(module), module.graph)
        post_grad.decompose_triton_kernel_wrapper_functional(module.graph)
        module.recompile()
        assert not any("clone" in name for name in names(module))  # outputs are written where they are
        graph = GraphLowering(module, example_inputs=arguments, is_inference=True)
        with V.set_graph_handler(graph), V.set_debug_handler(DebugContext()):
            graph.run(*arguments)
            found.append(graph.codegen()[0].value)
        return lambda *_: None

    mode = next(tensor for tensor in inputs if tensor is not None).fake_mode
    with mode, V.set_fake_mode(mode), tracing(TracingContext(mode)):
        traced = make_fx(function, tracing_mode="fake")(*inputs)
        aot_autograd(fw_compiler=lowered, decompositions=select_decomp_table())(traced, list(inputs))
    return found[0]


def _compiled(name, source, path):
    """A kernel as Inductor writes and specialises it, compiled as Inductor would."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kernel = getattr(module, name)
    meta, (configuration,) = kernel.options["triton_meta"], kernel.options["configs"]
    made = triton.compile(
        ASTSource(kernel, meta["signature"], meta["constants"], meta["configs"][0]),
        target=GPUTarget("cuda", 90, 32),
        options=configuration,
    )
    return Compiled(name, (), made.asm["ptx"], made.asm["cubin"])


CASES = [
    pytest.param((32, 256, 56, 56), True, 3, True, id="the end of a residual block"),
    pytest.param((64, 2048, 7, 7), False, 1, False, id="small planes"),
]


@pytest.mark.parametrize(("shape", "channels_last", "number", "relu"), CASES)
def test_inductor_makes_the_same_kernels_of_it(shape, channels_last, number, relu, inductor, tmp_path):
    from torch._subclasses.fake_tensor import FakeTensorMode

    from normsmith.ops.gpu import compiled_graphs  # noqa: F401

    channels, layout = shape[1], torch.channels_last if channels_last else torch.contiguous_format
    with FakeTensorMode():
        x = torch.empty(shape, device="cuda", dtype=torch.bfloat16).to(memory_format=layout)
        z, g = torch.empty_like(x) if relu else None, torch.empty_like(x)
        vectors = [torch.empty(channels, device="cuda") for _ in range(4)]

    def both(x, g, z, gamma, beta, mean, var):
        how = ("relu" if relu else "none", shape[0], 1)
        y, *kept = torch.ops.normsmith.triton_batch_norm_v1(
            x, gamma, beta, z, mean, var, None, None, None, 1e-5, *how
        )
        back = torch.ops.normsmith.triton_batch_norm_backward_v1
        return y, *back(g, x, None, *kept, None, False, *how, True, x.dtype if relu else None)

    made = inductor(both, x, g, z, *vectors)
    assert len(made) == 2 * number
    for kernel in made:
        assert in_registers(kernel, tmp_path), kernel.name
        if "settle" not in kernel.name and number == 3:
            assert wide(kernel.ptx, "ld") >= 1, kernel.name
