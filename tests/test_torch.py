"""Each private name of torch that normsmith uses is still there, and means what it meant."""

from __future__ import annotations

import inspect
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.ranks import run_ranks
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from normsmith import _torch
from normsmith.layers import BatchNorm1d


def test_what_a_module_holds_is_its_own_dictionaries() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    assert list(_torch.parameters_of(net[0])) == ["weight", "bias"]
    assert _torch.parameters_of(net[0])["bias"] is None
    assert list(_torch.buffers_of(net[1])) == ["running_mean", "running_var", "num_batches_tracked"]
    assert _torch.children_of(net) == {"0": net[0], "1": net[1]}
    gamma, mean, norm = nn.Parameter(torch.zeros(2)), torch.ones(2), nn.Identity()
    _torch.parameters_of(net[1])["weight"] = gamma
    _torch.buffers_of(net[1])["running_mean"] = mean
    assert net[1].weight is gamma
    assert net[1].running_mean is mean
    _torch.children_of(net)["1"] = norm
    assert net[1] is norm


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_a_scripted_module_holds_can_be_read() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    assert set(_torch.children_of(scripted)) == {"0", "1"}
    assert set(_torch.parameters_of(scripted[0])) == {"weight", "bias"}
    assert "running_mean" in _torch.buffers_of(scripted[1])


def test_a_module_before_its_constructor_has_no_children_so_far() -> None:
    assert _torch.children_so_far(nn.Module.__new__(nn.Module)) == {}
    net = nn.Sequential(nn.ReLU())
    assert _torch.children_so_far(net) == {"0": net[0]}


def test_hooks_are_found_by_the_handles_that_users_hold() -> None:
    layer = nn.Linear(2, 2)
    after = layer.register_forward_hook(lambda *_: None)
    before = layer.register_forward_pre_hook(lambda *_: None)
    keyword = layer.register_forward_pre_hook(lambda *_: None, with_kwargs=True)
    assert list(_torch.forward_hooks_of(layer)) == [after.id]
    assert list(_torch.forward_pre_hooks_of(layer)) == [before.id, keyword.id]
    assert _torch.keyword_pre_hooks_of(layer) == {keyword.id: True}
    assert _torch.backward_hooks_of(layer) == {}
    first = layer.register_full_backward_pre_hook(lambda *_: None)
    second = layer.register_full_backward_hook(lambda *_: None)
    assert list(_torch.backward_hooks_of(layer)) == [first.id, second.id]
    del _torch.forward_hooks_of(layer)[after.id]
    assert after.id not in _torch.forward_hooks_of(layer)


class _WithHooks(nn.Module):
    """Registers its own methods as hooks, as lazy modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []
        self.register_forward_hook(self.after)
        self._register_load_state_dict_pre_hook(self.loading)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def after(self, *_: Any) -> None:
        self.heard.append("after")

    def loading(self, *_: Any) -> None:
        self.heard.append("loading")


def test_a_successor_has_all_hooks_and_those_bound_to_the_module_are_bound_to_it() -> None:
    old, new = _WithHooks(), _WithHooks()
    calls: list[nn.Module] = []
    handle = old.register_forward_pre_hook(lambda module, _: calls.append(module))
    loaded: list[nn.Module] = []
    old.register_load_state_dict_pre_hook(lambda module, *_: loaded.append(module))
    _torch.hand_over_hooks(old, new)
    new(torch.zeros(1))
    new.load_state_dict({})
    assert (new.heard, old.heard) == (["after", "loading"], [])
    assert calls == loaded == [new]
    handle.remove()
    new(torch.zeros(1))
    assert calls == [new]


def test_no_hooks_of_torch_are_forgotten() -> None:
    ways = ("forward", "forward_pre", "backward", "backward_pre", "state_dict", "state_dict_pre")
    loading = ("load_state_dict_pre", "load_state_dict_post")
    flags = {"_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"}
    known = {f"_{way}_hooks" for way in (*ways, *loading)} | flags | {"_is_full_backward_hook"}
    assert known <= set(_torch._HOOK_ATTRIBUTES)


def test_lazy_modules_keep_handles_of_their_own_hooks() -> None:
    lazy = nn.LazyLinear(2)
    assert {"_initialize_hook", "_load_hook"} <= set(vars(lazy))


def test_torch_calls_the_private_methods_that_layers_override() -> None:
    calls: list[str] = []

    class Layer(nn.Linear):
        def _apply(self, fn: Any, recurse: bool = True) -> Layer:
            calls.append("_apply")
            super()._apply(fn, recurse)
            return self

        def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
            calls.append("_load_from_state_dict")
            super()._load_from_state_dict(*arguments, **options)

    nn.Sequential(layer := Layer(2, 2)).double()
    assert layer.weight.dtype == torch.float64
    nn.Sequential(layer).load_state_dict({"0.weight": torch.eye(2), "0.bias": torch.ones(2)})
    assert torch.equal(layer.bias.detach(), torch.ones(2).double())
    assert calls == ["_apply", "_load_from_state_dict"]


def test_the_bases_are_those_of_torchs_layers() -> None:
    assert issubclass(nn.BatchNorm2d, _torch.TorchBatchNorm)
    assert issubclass(nn.SyncBatchNorm, _torch.TorchBatchNorm)
    assert issubclass(nn.LazyBatchNorm2d, (_torch.LazyNormBase, _torch.TorchBatchNorm))
    assert issubclass(nn.LazyInstanceNorm1d, _torch.LazyNormBase)
    assert issubclass(nn.InstanceNorm3d, _torch.TorchInstanceNorm)
    assert not issubclass(nn.InstanceNorm3d, _torch.TorchBatchNorm)
    assert issubclass(nn.InstanceNorm3d, _torch.NormBase)
    assert issubclass(_torch.TorchBatchNorm, _torch.NormBase)
    assert issubclass(nn.ConvTranspose2d, _torch.ConvTranspose)
    assert not issubclass(nn.Conv2d, _torch.ConvTranspose)
    for dropout in (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout):
        assert issubclass(dropout, _torch.Dropout)


def test_norms_take_a_bias_where_they_say_so() -> None:
    if _torch.NORMS_TAKE_BIAS:
        assert nn.BatchNorm1d(2, bias=False).bias is None
    assert ("bias=" in repr(nn.BatchNorm1d(2))) is _torch.NORMS_TAKE_BIAS


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_module_is_found_in_its_wrapper_and_named_by_the_prefix() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    compiled: Any = torch.compile(net)
    assert _torch.compiled_module(compiled) is net
    assert set(compiled.state_dict()) == {_torch.COMPILED_PREFIX + name for name in net.state_dict()}
    assert _torch.is_compiler_loaded()


def test_what_is_not_compiled_is_no_wrapper() -> None:
    assert _torch.compiled_module(nn.Sequential(nn.Linear(2, 2))) is None
    assert not _torch.is_compiled_in_place(nn.Linear(2, 2))


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_module_compiled_in_place_is_recognised() -> None:
    layer = nn.Linear(2, 2)
    layer.compile()
    assert _torch.is_compiled_in_place(layer)


def test_the_compiler_counts_as_loaded_when_it_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    assert not _torch.is_compiler_loaded()
    monkeypatch.setitem(sys.modules, "torch._dynamo", torch)
    assert _torch.is_compiler_loaded()


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiler_takes_the_result_of_a_marked_function_as_a_constant() -> None:
    calls = []

    def counted(x: int) -> int:
        calls.append(x)
        return sys.getrecursionlimit()  # the compiler cannot trace this

    _torch.mark_constant(counted)
    compiled = torch.compile(lambda x: x + counted(1), backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.zeros(1)), compiled(torch.zeros(1)))
    assert calls == [1]


def test_transforms_are_seen_while_they_run_and_not_otherwise() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append((_torch.has_function_transforms(), _torch.is_transformed()))
        return x * x

    function(torch.ones(2))
    torch.func.vmap(function)(torch.ones(2))
    torch.func.grad(lambda x: function(x).sum())(torch.ones(2))
    with torch.autograd.forward_ad.dual_level():
        function(torch.ones(2))
    function(torch.ones(2))
    assert seen == [(False, False), (True, True), (True, True), (False, True), (False, False)]


def test_exporting_is_asked_of_torch_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _torch.is_exporting()
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True, raising=False)
    assert _torch.is_exporting()
    monkeypatch.delattr(torch.compiler, "is_exporting")
    assert not _torch.is_exporting()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traces_are_seen_while_they_run_and_not_otherwise() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(_torch.is_traced_or_transformed())
        return x * x

    function(torch.ones(2))
    torch.jit.trace(function, torch.ones(2), check_trace=False)
    torch.func.grad(lambda x: function(x).sum())(torch.ones(2))
    assert seen == [False, True, True]


def test_dispatch_modes_are_counted() -> None:
    class Mode(_torch.DispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kernels.append(str(func))
            return func(*args, **(kwargs or {}))

    kernels: list[str] = []
    assert _torch.number_of_dispatch_modes() == 0
    with Mode():
        assert _torch.number_of_dispatch_modes() == 1
        torch.ones(2).exp()
    assert _torch.number_of_dispatch_modes() == 0
    assert "aten.exp.default" in kernels


def test_batched_gradients_are_told_from_single_ones() -> None:
    seen = []

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            seen.append(_torch.is_batched_gradient(g))
            return 2 * g

    x = torch.ones(2, requires_grad=True)
    y = Double.apply(x)
    torch.autograd.grad(y, x, torch.ones(2), retain_graph=True)
    torch.autograd.grad(y, x, torch.eye(2), is_grads_batched=True)
    assert seen == [False, True]


def test_a_buffer_that_functionalize_was_not_given_takes_what_it_computes() -> None:
    buffer = torch.zeros(3)

    def forward(x: Tensor) -> Tensor:
        own = x * 2
        assert _torch.for_captured(own, own) is own
        buffer.copy_(_torch.for_captured(buffer, own))
        return own

    x = torch.arange(3.0)
    assert torch.equal(torch.func.functionalize(forward)(x), 2 * x)
    assert torch.equal(buffer, 2 * x)
    assert _torch.for_captured(buffer, x) is x


def test_torch_functions_are_called_neither_of_modes_nor_of_subclasses_in_the_block() -> None:
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append("mode")
            return func(*args, **(kwargs or {}))

    class Subclass(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append("subclass")
            return super().__torch_function__(func, types, args, kwargs)

    calls: list[str] = []
    x = torch.ones(2).as_subclass(Subclass)
    with Mode():
        torch.exp(x)
        assert set(calls) == {"mode", "subclass"}
        calls.clear()
        with _torch.without_torch_functions():
            torch.exp(x)
    assert calls == []


def test_writing_into_a_tensor_moves_its_version() -> None:
    x = torch.ones(2)
    before = _torch.version_of(x)
    x.view(2, 1).add_(1)
    assert _torch.version_of(x) == before + 1
    x.exp()
    assert _torch.version_of(x) == before + 1


def test_backward_passes_have_numbers() -> None:
    numbers = []

    def record(g: Tensor) -> None:
        numbers.append(_torch.backward_number())

    assert _torch.backward_number() == -1
    for _ in range(2):
        x = torch.ones(2, requires_grad=True)
        x.register_hook(record)
        y = x * 2
        y.register_hook(record)
        y.sum().backward()
    assert _torch.backward_number() == -1
    assert -1 not in numbers
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3]


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputed_segment_is_the_one_that_ran(reentrant: bool) -> None:
    ran, recomputed = [], []

    def segment(x: Tensor) -> Tensor:
        if _torch.backward_number() == -1:
            ran.append(_torch.checkpointed_segment())
        else:
            recomputed.append(_torch.recomputed_segment())
        return x.exp()

    x = torch.ones(2, requires_grad=True)
    first = checkpoint(segment, x, use_reentrant=reentrant)
    second = checkpoint(segment, x, use_reentrant=reentrant)
    first.sum().backward()
    second.sum().backward()
    assert None not in ran
    assert ran[0] is recomputed[0]
    assert ran[1] is recomputed[1]
    assert ran[0] is not ran[1]


def test_no_segment_is_seen_outside_of_checkpoints() -> None:
    assert _torch.checkpointed_segment() is None
    assert _torch.recomputed_segment() is None
    with torch.no_grad():
        assert _torch.checkpointed_segment() is None
    with torch.autograd.graph.save_on_cpu():
        assert _torch.checkpointed_segment() is None


def test_trees_of_tensors_are_taken_apart_and_put_together() -> None:
    tree = {"a": (1, [2, 3]), "b": 4}
    assert _torch.leaves_of(tree) == [1, 2, 3, 4]
    assert _torch.map_leaves(lambda leaf: -leaf, tree) == {"a": (-1, [-2, -3]), "b": -4}
    leaves, layout = _torch.leaves_and_layout(tree)
    assert _torch.with_layout([leaf * 2 for leaf in leaves], layout) == {"a": (2, [4, 6]), "b": 8}


def _exchange(rank: int, size: int) -> tuple[timedelta, list[float], list[float]]:
    group: Any = dist.group.WORLD
    x = torch.ones(2, requires_grad=True)
    total = _torch.differentiable_sum(x * (rank + 1), group)
    (total * (rank + 1)).sum().backward()
    assert x.grad is not None
    return _torch.timeout_of(group), total.tolist(), x.grad.tolist()


def test_a_group_says_how_long_it_waits_and_its_sum_has_the_gradient_of_a_sum() -> None:
    for rank, (timeout, total, gradient) in enumerate(run_ranks(_exchange, 2, timeout=420)):
        assert timeout == timedelta(minutes=7)
        assert total == [3.0, 3.0]
        assert gradient == [3.0 * (rank + 1)] * 2


def test_plain_tensors_are_not_functional_and_those_in_a_functionalized_graph_are() -> None:
    from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode

    assert not _torch.is_functional(torch.ones(2))
    with FunctionalTensorMode():
        assert _torch.is_functional(FunctionalTensor.to_functional(torch.ones(2)))


def test_the_kernels_of_an_operator_are_those_that_it_was_told_of() -> None:
    triton = pytest.importorskip("torch._library.triton")
    if not hasattr(triton, "get_triton_kernels_for_op"):
        pytest.skip("this torch keeps no list of the kernels of operators")
    kernel = object()
    _torch.name_triton_kernels("normsmith::nothing", [kernel])
    assert triton.get_triton_kernels_for_op("normsmith::nothing") == [kernel]
    del triton.triton_ops_to_kernels["normsmith::nothing"]


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_layers_that_read_their_own_dictionaries_compile_without_a_break() -> None:
    norm = BatchNorm1d(3)
    compiled = torch.compile(norm, backend="eager", fullgraph=True)
    x = torch.randn(8, 3)
    assert torch.allclose(compiled(x), nn.BatchNorm1d(3)(x), atol=1e-5)


def test_each_function_of_the_file_is_tested_and_says_what_it_needs() -> None:
    functions = {
        name: value
        for name, value in vars(_torch).items()
        if inspect.isfunction(value) and not name.startswith("_") and value.__module__ == _torch.__name__
    }
    tests = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in functions if f"_torch.{name}(" not in tests] == []
    assert [name for name, function in functions.items() if "Needs" not in (function.__doc__ or "")] == []
