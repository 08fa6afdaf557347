"""Prepared calls of the function: the same numbers and errors, whatever tensors come."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import weakref

import numpy
import pytest
import torch
from tests.layers.prepared_calls import nothing_prepared, same
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from normsmith.ops import Renorm, batch_norm, function_calls
from normsmith.ops.cpu import prepared
from normsmith.ops.function_calls import FunctionCalls


@pytest.fixture
def taken(monkeypatch):
    """The prepared calls that ran, of none at first."""
    calls, run = [], function_calls.run

    def counted(call, *arguments):
        calls.append(call)
        return run(call, *arguments)

    monkeypatch.setattr(sys.modules["normsmith.ops.batch_norm"], "_CALLS", FunctionCalls())
    monkeypatch.setattr(function_calls, "run", counted)
    return calls


def arguments(shape=(6, 5), dtype=torch.float32, affine=True, tracked=True, **options):
    """New tensors for a call."""
    channels, work = shape[1], torch.float64 if dtype == torch.float64 else torch.float32
    given = {"x": (torch.randn(shape) * 3 + 1).to(dtype).requires_grad_()}
    if affine:
        given |= {name: torch.randn(channels, dtype=work, requires_grad=True) for name in ("weight", "bias")}
    if tracked:
        mean, var = torch.randn(channels, dtype=work), torch.rand(channels, dtype=work) + 1
        given |= {"running_mean": mean, "running_var": var, "num_batches_tracked": torch.tensor(3)}
    made = {name: value(shape, channels) if callable(value) else value for name, value in options.items()}
    return given | made


def copied(given):
    """The same call with other tensors, of which two are one where they are one here."""
    copies = {
        id(each): each.detach().clone().requires_grad_(each.requires_grad)
        for each in given.values()
        if isinstance(each, torch.Tensor)
    }
    return {name: copies.get(id(value), value) for name, value in given.items()}


def outcome(given):
    """Output, all gradients, and running statistics with their versions; or the error."""
    inputs = [each for each in given.values() if isinstance(each, torch.Tensor) and each.requires_grad]
    buffers = [
        each for name, each in given.items() if name.startswith(("running", "num")) and each is not None
    ]
    before = [buffer._version for buffer in buffers]
    try:
        y = batch_norm(**given)
        g = torch.arange(float(y.numel())).sin().view_as(y).to(y.dtype)
        gradients = torch.autograd.grad(y, inputs, g, allow_unused=True) if y.requires_grad else []
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    versions = [torch.tensor(buffer._version - was) for buffer, was in zip(buffers, before, strict=True)]
    return [y.detach(), *gradients, *buffers, *versions]


def meet(given, times=2):
    for _ in range(times):
        outcome(copied(given))


def randn(shape, channels):
    return torch.randn(shape, requires_grad=True)


CALLS = {
    "matrix": {},
    "double": {"dtype": torch.float64},
    "halves": {"dtype": torch.bfloat16},
    "images": {"shape": (4, 3, 5, 5)},
    "planes": {"shape": (2, 3, 16, 17)},
    "no affine": {"affine": False},
    "weight only": {"bias": None},
    "nothing tracked": {"tracked": False},
    "no counter": {"num_batches_tracked": None},
    "no update": {"update_running": False},
    "running": {"normalize_with": "running"},
    "running with bounds": {"normalize_with": "running", "renorm": Renorm("none", "none")},
    "settings": {"momentum": 1, "eps": 0.5, "on_nonfinite": "propagate", "on_small_batch": "running"},
    "relu": {"activation": "relu"},
    "residual": {"residual": randn},
    "residual and relu": {"residual": randn, "activation": "relu"},
    "renorm": {"renorm": lambda shape, channels: Renorm(torch.rand(()) + 1, float(torch.rand(())))},
    "deviations": {"renorm": Renorm(2.0, 3.0), "running_std": lambda shape, channels: torch.rand(channels) + 1},
    "parameters": {"weight": lambda shape, channels: Parameter(torch.randn(channels))},
    "nothing requires a gradient": {
        name: lambda shape, channels: torch.randn(channels) for name in ("weight", "bias")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_numbers_are_those_of_calls_that_are_not_prepared(name, taken):
    for _ in range(4):
        given = {key: value for key, value in arguments(**CALLS[name]).items() if value is not None}
        twin = copied(given)
        with nothing_prepared():
            expected = outcome(twin)
        found = outcome(given)
        assert not isinstance(expected, str), expected
        assert same(found, expected)
    assert len(taken) == 3


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_std", "residual"])
def test_a_tensor_without_elements_is_refused_after_calls_without_it(name, taken, unchecked):
    x = torch.randn(6, 5)
    meet({"x": x}, 3)
    with nothing_prepared():
        expected = outcome({"x": x, name: torch.empty(0)})
    assert isinstance(expected, str)
    assert outcome({"x": x, name: torch.empty(0)}) == expected


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_residual_is_refused_after_calls_with_a_plain_one(taken, unchecked):
    given = arguments(residual=randn)
    meet(given, 3)
    nested = {**given, "residual": torch.nested.nested_tensor([torch.ones(6, 5)], layout=torch.strided)}
    with nothing_prepared():
        expected = outcome(nested)
    assert isinstance(expected, str)
    assert outcome(nested) == expected


def test_a_residual_that_is_the_batch(taken):
    for _ in range(3):
        given = arguments(activation="relu")
        given["residual"] = given["x"]
        with nothing_prepared():
            expected = outcome(copied(given))
        assert same(outcome(given), expected)
    assert len(taken) == 2


def test_layouts_have_calls_of_their_own(taken):
    plain = arguments(shape=(4, 3, 5, 5))
    last = {**plain, "x": plain["x"].detach().to(memory_format=torch.channels_last).requires_grad_()}
    for given in (plain, last, plain, last, plain, last):
        with nothing_prepared():
            expected = outcome(copied(given))
        found = outcome(copied(given))
        assert same(found, expected)
        assert found[0].stride() == expected[0].stride()
    assert len(taken) == 4
    assert len(set(map(id, taken))) == 2


CHANGES = {
    "channels": lambda given: given.update(weight=torch.ones(4)),
    "empty weight": lambda given: given.update(weight=torch.empty(0)),
    "empty mean": lambda given: given.update(running_mean=torch.empty(0)),
    "empty residual": lambda given: given.update(residual=torch.empty(0)),
    "numbers": lambda given: given.update(weight=2.0, bias=3.0),
    "statistics of other channels": lambda given: given.update(running_var=torch.ones(4)),
    "weight of another dtype": lambda given: given.update(weight=given["weight"].detach().double()),
    "weight with gaps": lambda given: given.update(weight=torch.randn(10)[::2]),
    "weight on another device": lambda given: given.update(weight=torch.ones(5, device="meta")),
    "sparse weight": lambda given: given.update(weight=torch.ones(5).to_sparse()),
    "negative bit": lambda given: given.update(weight=torch._neg_view(given["weight"].detach())),
    "weight of zeros without memory": lambda given: given.update(weight=torch._efficientzerotensor((5,))),
    "statistics of another dtype": lambda given: given.update(running_mean=torch.zeros(5).double()),
    "statistics with gaps": lambda given: given.update(running_mean=torch.zeros(10)[::2]),
    "statistics on another device": lambda given: given.update(running_mean=torch.ones(5, device="meta")),
    "no mean": lambda given: given.update(running_mean=None),
    "no variance": lambda given: given.update(running_var=None),
    "no statistics to normalise by": lambda given: given.update(
        running_mean=None, running_var=None, normalize_with="running"
    ),
    "short counter": lambda given: given.update(num_batches_tracked=torch.tensor(3, dtype=torch.int32)),
    "one row": lambda given: given.update(x=given["x"][:1]),
    "no rows": lambda given: given.update(x=given["x"][:0]),
    "vector": lambda given: given.update(x=given["x"][0]),
    "integers": lambda given: given.update(x=torch.ones(6, 5, dtype=torch.int64)),
    "residual of another shape": lambda given: given.update(residual=torch.ones(6, 1)),
    "residual of another dtype": lambda given: given.update(residual=torch.ones(6, 5).double()),
    "residual on another device": lambda given: given.update(residual=torch.ones(6, 5, device="meta")),
    "residual that is no tensor": lambda given: given.update(residual=[[1.0] * 5] * 6),
    "residual is the batch": lambda given: given.update(residual=given["x"]),
    "beta is gamma": lambda given: given.update(bias=given["weight"]),
    "cumulative": lambda given: given.update(momentum=None),
    "momentum tensor": lambda given: given.update(momentum=torch.tensor(0.3)),
    "momentum": lambda given: given.update(momentum=0.3),
    "momentum of numpy": lambda given: given.update(momentum=numpy.float64(0.1)),
    "eps": lambda given: given.update(eps=0.3),
    "eps tensor": lambda given: given.update(eps=torch.tensor(0.3)),
    "wrong word": lambda given: given.update(normalize_with="runing"),
    "no word": lambda given: given.update(on_small_batch=["error"]),
    "activation": lambda given: given.update(activation="gelu"),
    "no activation": lambda given: given.update(activation="gellu"),
    "nonfinite": lambda given: given.update(on_nonfinite="zero"),
    "weight that is trained": lambda given: given.update(weight=given["weight"].detach()),
    "mask": lambda given: given.update(mask=torch.tensor([True] * 5 + [False])),
    "weights": lambda given: given.update(sample_weight=torch.rand(6)),
    "ghosts": lambda given: given.update(ghost_batch_size=3),
    "bounds that are none": lambda given: given.update(renorm=Renorm("a", 0.0)),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_call_of_another_kind_does_what_it_does_unprepared(change, taken, unchecked):
    given = arguments()
    meet(given, 3)
    assert len(taken) == 2
    CHANGES[change](given)
    for _ in range(3):
        with nothing_prepared():
            expected = outcome(copied(given))
        found = outcome(copied(given))
        if isinstance(expected, str):
            assert found == expected
        else:
            assert not isinstance(found, str), found
            assert same(found, expected)


def test_moments_can_be_collected(taken):
    x, collected = torch.randn(6, 5), []
    for _ in range(3):
        batch_norm(x, torch.zeros(5), torch.ones(5), collected=collected)
    assert len(collected) == 3
    assert not taken


class Seen(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "context",
    [
        Seen,
        lambda: FlopCounterMode(display=False),
        torch.autograd.forward_ad.dual_level,
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
    ],
)
def test_contexts_take_the_usual_path(context, taken):
    given = arguments()
    meet(given)
    for _ in range(3):
        with context():
            batch_norm(**copied(given))
    assert len(taken) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_transforms_and_tracers_take_the_usual_path(taken, monkeypatch):
    x = torch.randn(6, 5)
    meet({"x": x})
    for _ in range(3):
        torch.func.grad(lambda x: batch_norm(x).sum())(x)
        torch.func.vmap(batch_norm)(x[None])
        torch.jit.trace(batch_norm, x, check_trace=False)
        batch_norm(x.as_subclass(type("Other", (torch.Tensor,), {})))
    monkeypatch.setenv("NORMSMITH_BACKEND", "reference")
    batch_norm(x)
    assert len(taken) == 1


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_forwards_do_what_they_do_unprepared(reentrant, taken):
    given = arguments()
    meet(given, 3)
    twin, found = copied(given), []
    for each, block in ((given, torch.enable_grad), (twin, nothing_prepared)):
        rest = {name: value for name, value in each.items() if name != "x"}
        with block():
            y = checkpoint(
                lambda x, rest=rest: batch_norm(x, **rest).square(), each["x"], use_reentrant=reentrant
            )
            y.sum().backward()
        found.append([y, *(each[name].grad for name in ("x", "weight", "bias")), each["running_mean"]])
    assert same(*found)
    assert given["num_batches_tracked"] == 5


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
def test_inference(context, taken):
    given = arguments(normalize_with="running")
    meet(given)
    for _ in range(3):
        with context():
            y, twin = batch_norm(**given), copied(given)
            with nothing_prepared():
                expected = batch_norm(**twin)
        assert torch.equal(y, expected)
        assert (y.is_inference(), y.requires_grad) == (expected.is_inference(), False)
    assert len(taken) > 2


def test_no_tensor_is_kept_alive(taken):
    given = arguments(residual=randn, activation="relu", renorm=Renorm(torch.tensor(2.0), torch.tensor(1.0)))
    meet(given, 4)
    held = [
        weakref.ref(each) for each in (*given.values(), *given["renorm"]) if isinstance(each, torch.Tensor)
    ]
    assert len(held) == 9
    del given
    gc.collect()
    assert not any(each() is not None for each in held)


def test_few_kinds_are_kept(taken, monkeypatch):
    calls = FunctionCalls()
    monkeypatch.setattr(sys.modules["normsmith.ops.batch_norm"], "_CALLS", calls)
    for rows in range(2, function_calls.MOST + 5):
        batch_norm(torch.empty(rows, 2))
        assert len(calls._kinds) <= function_calls.MOST


def test_calls_of_wide_batches_are_not_kept(taken, monkeypatch):
    monkeypatch.setattr(function_calls, "WIDEST", 5)
    for channels, expected in ((6, 0), (5, 2)):
        taken.clear()
        for _ in range(3):
            batch_norm(**arguments((6, channels)))
        assert len(taken) == expected


def test_two_forwards_before_one_backward(taken):
    found = []
    given = [arguments() for _ in range(4)]
    twins = [copied(each) for each in given]
    for each in (given, twins):
        outputs = [batch_norm(**one) for one in each]
        inputs = [one[name] for one in each for name in ("x", "weight", "bias")]
        found.append(torch.autograd.grad(outputs, inputs, [torch.ones(6, 5).cumsum(0)] * 4))
    assert same(*found)
    assert len(taken) == 7


@pytest.mark.parametrize("changed", ["x", "weight", "bias"])
@pytest.mark.parametrize("times", [0, 3])
def test_what_a_backward_reads_may_not_change_before_it(changed, times, taken):
    given = arguments()
    meet(given, times)
    y = batch_norm(**given)
    with torch.no_grad():
        given[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_graph_that_saved_a_running_statistic_is_protected(taken):
    given = arguments()
    meet(given)
    mean = given["running_mean"]
    kept = (given["weight"] * mean).sum()
    batch_norm(**given)
    assert taken
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_gradients_of_gradients(taken):
    given = arguments(activation="relu")
    meet(given)
    found = []
    for block in (nothing_prepared, torch.enable_grad):
        twin = copied(given)
        inputs = [twin["x"], twin["weight"], twin["bias"]]
        with block():
            y = batch_norm(**twin)
        first = torch.autograd.grad(y, inputs, torch.ones(6, 5).cumsum(0), create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(each.square().sum() for each in first), inputs[:2])])
    assert same(*found)
    assert len(taken) == 2


def test_threads_share_prepared_calls(taken):
    given = [arguments(shape=(300, 100), normalize_with="running") for _ in range(3)]
    with nothing_prepared():
        expected = [outcome(copied(each)) for each in given]
    meet(given[0])
    wrong = []

    def use(each, want):
        wrong.extend(each for _ in range(15) if not same(outcome(each), want))

    threads = [threading.Thread(target=use, args=each) for each in zip(given, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(taken) == 1 + 3 * 15


def test_a_call_within_a_call(monkeypatch, taken):
    outer, inner = arguments(), arguments()
    with nothing_prepared():
        expected = outcome(copied(outer)), outcome(copied(inner))
    meet(outer)
    found, empty, calls = [], prepared.empty_on_cpu, iter([True])

    def interrupted(*place):
        y = empty(*place)
        if next(calls, False):
            with torch.enable_grad():  # the forward of an autograd function runs without
                found.append(outcome(inner))
        return y

    monkeypatch.setattr(prepared, "empty_on_cpu", interrupted)
    found.insert(0, outcome(outer))
    assert all(same(*each) for each in zip(found, expected, strict=True))
    assert len(taken) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system forks no processes")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_of_a_fork(two_threads, taken):
    x = torch.randn(400, 300)
    for _ in range(3):
        expected = batch_norm(x).numpy()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        # torch's own operations would wait for threads that the child does not have
        torch.utils.deterministic.fill_uninitialized_memory = False
        os._exit(0 if numpy.allclose(batch_norm(x).numpy(), expected, atol=1e-5) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert taken


@pytest.mark.compiles
def test_compiled_callers_take_the_usual_path(taken):
    given = arguments()
    meet(given, 3)
    before = len(taken)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: batch_norm(x) * 2, backend="aot_eager")
    torch.testing.assert_close(compiled(given["x"]), batch_norm(given["x"]) * 2)
    assert len(taken) == before
