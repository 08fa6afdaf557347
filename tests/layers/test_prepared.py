"""Calls that a layer has prepared: the same numbers, and only as long as nothing has changed."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import weakref

import numpy
import pytest
import torch
from tests.layers.prepared_calls import meet, same, step, taken, unprepared
from torch import nn
from torch.nn import Parameter
from torch.nn.utils import parametrize, prune

from normsmith.errors import InputError
from normsmith.layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNormAct1d,
    BatchNormAct2d,
    BatchRenorm1d,
    BatchRenorm2d,
    BatchRenormAct1d,
    prepared,
)

__all__ = ["taken"]


LAYERS = {
    "matrix": (lambda: BatchNorm1d(5), (6, 5), torch.float32),
    "double": (lambda: BatchNorm1d(5, dtype=torch.float64), (6, 5), torch.float64),
    "halves in a layer of singles": (lambda: BatchNorm1d(5), (6, 5), torch.bfloat16),
    "sequences": (lambda: BatchNorm1d(3), (4, 3, 7), torch.float32),
    "images": (lambda: BatchNorm2d(3), (4, 3, 5, 5), torch.float32),
    "planes": (lambda: BatchNorm2d(3), (2, 3, 16, 17), torch.float32),
    "no affine": (lambda: BatchNorm1d(5, affine=False), (6, 5), torch.float32),
    "nothing tracked": (lambda: BatchNorm1d(5, track_running_stats=False), (6, 5), torch.float32),
    "propagate": (lambda: BatchNorm1d(5, on_nonfinite="propagate", momentum=1), (6, 5), torch.float32),
    "relu": (lambda: BatchNormAct1d(5), (6, 5), torch.float32),
    "renorm": (lambda: BatchRenorm1d(5, total_steps=40), (6, 5), torch.float32),
    "renorm of deviations": (lambda: BatchRenorm2d(3, schedule="keras"), (4, 3, 5, 5), torch.float32),
    "renorm and relu": (lambda: BatchRenormAct1d(5, total_steps=9), (6, 5), torch.float32),
}


@pytest.mark.parametrize("name", LAYERS)
def test_numbers_are_those_of_calls_that_are_not_prepared(name, taken):
    make, shape, dtype = LAYERS[name]
    layer = make()
    twin = unprepared(layer)
    before = [[buffer._version for buffer in each.buffers()] for each in (layer, twin)]
    for number in range(8):
        layer.train(number % 4 != 3), twin.train(number % 4 != 3)
        x, g = torch.randn(shape).to(dtype) * 3 + number, torch.randn(shape).to(dtype)
        assert same(step(layer, x, g), step(twin, x, g))
        assert same(layer.buffers(), twin.buffers())
        written, expected = (
            [buffer._version - version for buffer, version in zip(each.buffers(), versions, strict=True)]
            for each, versions in zip((layer, twin), before, strict=True)
        )
        assert written == expected
        with torch.no_grad():
            assert torch.equal(layer.eval()(x), twin.eval()(x))
    assert len(taken) > 4


@pytest.mark.parametrize("make", [lambda: BatchNormAct2d(3), lambda: BatchNormAct2d(3, activation=None)])
def test_residuals(make, taken):
    layer = make()
    twin = unprepared(layer)
    for _ in range(4):
        x, g, z = torch.randn(3, 2, 3, 4, 4)
        x, g, z = (torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last) for _ in range(3))
        residuals = z.requires_grad_(), z.detach().clone().requires_grad_()
        assert same(step(layer, x, g, residual=residuals[0]), step(twin, x, g, residual=residuals[1]))
    assert len(taken) == 3
    layer(x, residual=z.detach().contiguous())  # other strides than those of x
    assert len(taken) == 3


def test_other_activations_are_not_prepared(taken):
    layer = BatchNormAct1d(5, activation="gelu")
    meet(layer, torch.randn(6, 5), 3)
    assert not taken


def test_kinds_of_values_that_are_not_finite(taken):
    layer = BatchNorm1d(5)
    twin = unprepared(layer)
    meet(layer, torch.ones(6, 5)), meet(twin, torch.ones(6, 5))
    x = torch.randn(6, 5)
    x[2, 3], x[1, 1] = torch.nan, torch.inf
    assert torch.equal(layer(x).nan_to_num(7), twin(x).nan_to_num(7))
    assert same(layer.buffers(), twin.buffers())
    assert taken


def test_a_kind_of_batch_is_prepared_when_it_comes_again(taken):
    layer, x = BatchNorm1d(5), torch.randn(6, 5)
    layer(x)
    layer(x[:4])
    assert not taken
    layer(x)
    assert len(taken) == 1
    layer(x.double())
    layer(torch.randn(5, 6).t())
    assert len(taken) == 1


def test_a_layer_keeps_few_kinds():
    layer = BatchNorm1d(5)
    for rows in range(2, 3 * prepared.MOST):
        meet(layer, torch.randn(rows, 5))
        assert len(layer._prepared_calls._kinds) <= prepared.MOST


# What calls depend on.


def replace_data(layer):
    layer.weight.data = torch.full((5,), 3.0)


def shorten_data(layer):
    layer.bias.data = layer.bias.data[:3]  # at the same address


def reinterpret_data(layer):
    layer.weight.data = torch.stack([layer.weight.data, torch.ones(5)], 1)[:, 0]


def swap(layer):
    torch.utils.swap_tensors(layer.weight, Parameter(torch.full((5,), 3.0)))


def assign(layer):
    state = {name: value.clone() + 1 for name, value in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)


def drop(layer):
    layer.bias = None


def rename(layer):
    layer.__class__ = type("Renamed", (BatchNorm1d,), {"_normalise": lambda self, x, *_: x * 2})


CHANGES = {
    "double": lambda layer: layer.double(),
    "half": lambda layer: layer.half(),
    "data": replace_data,
    "data cut": shorten_data,
    "data at strides": reinterpret_data,
    "swap": swap,
    "assign": assign,
    "parameter": lambda layer: setattr(layer, "weight", Parameter(torch.full((5,), 3.0))),
    "none": drop,
    "buffer": lambda layer: setattr(layer, "running_mean", torch.full((5,), 3.0)),
    "buffer data": lambda layer: setattr(layer.running_var, "data", torch.full((5,), 3.0)),
    "no statistics": lambda layer: (
        setattr(layer, "running_mean", None),
        setattr(layer, "running_var", None),
    ),
    "counter": lambda layer: setattr(layer, "num_batches_tracked", torch.tensor(5, dtype=torch.int32)),
    "freeze": lambda layer: layer.freeze(),
    "freeze to the batch": lambda layer: layer.freeze("batch"),
    "momentum": lambda layer: setattr(layer, "momentum", 0.5),
    "cumulative": lambda layer: setattr(layer, "momentum", None),
    "momentum tensor": lambda layer: setattr(layer, "momentum", torch.tensor(0.1)),
    "eps": lambda layer: setattr(layer, "eps", 0.5),
    "nonfinite": lambda layer: setattr(layer, "on_nonfinite", "propagate"),
    "ghosts": lambda layer: setattr(layer, "ghost_batch_size", 3),
    "nothing tracked": lambda layer: setattr(layer, "track_running_stats", False),
    "evaluation": lambda layer: layer.eval(),
    "training set by hand": lambda layer: vars(layer).update(training=False),
    "in place": lambda layer: layer.weight.data.fill_(3.0),
    "fixed weight": lambda layer: layer.weight.requires_grad_(False),
    "all fixed": lambda layer: layer.requires_grad_(False),
    "channels": lambda layer: setattr(layer, "num_features", 4),
    "class": rename,
}


def outcome(layer, x):
    """Output, statistics and gradients of a step, or the error."""
    try:
        y = layer(x)
        if y.requires_grad:
            y.square().sum().backward()
        return [y.detach(), *layer.buffers(), *[parameter.grad for parameter in layer.parameters()]]
    except (InputError, RuntimeError) as error:
        return str(error)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_by_the_next_call(change, taken, unchecked):
    layer, x = BatchNorm1d(5), torch.randn(6, 5)
    meet(layer, x)
    assert len(taken) == 1
    twin = unprepared(layer)
    CHANGES[change](layer), CHANGES[change](twin)
    for _ in range(3):
        found, expected = outcome(layer, x), outcome(twin, x)
        if isinstance(expected, str):
            assert found == expected
            return
        assert not isinstance(found, str), found
        assert same(found, expected)


def test_wrong_batches_get_the_usual_errors(unchecked):
    layer, x = BatchNorm1d(5), torch.randn(6, 5)
    twin = unprepared(layer)
    meet(layer, x, 3)
    for wrong in (x[:, :4], x[:1], x.to_sparse()):
        errors = []
        for each in (layer, twin):
            with pytest.raises(InputError) as caught:
                each(wrong)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]


def test_empty_batches(taken):
    layer = BatchNorm1d(5)
    meet(layer, torch.empty(0, 5), 3)
    assert not taken
    assert layer.running_mean.tolist() == [0.0] * 5


def test_parameters_of_a_functional_call_are_used_and_forgotten(taken):
    layer, x = BatchNorm1d(5), torch.randn(6, 5)
    meet(layer, x)
    for _ in range(3):
        values = {name: value.detach() * 0 + 2 for name, value in layer.state_dict().items()}
        y = torch.func.functional_call(layer, values, (x,))
        assert torch.allclose(y.mean(0), torch.full((5,), 2.0))
    assert len(taken) == 1
    gone = weakref.ref(values["weight"])
    del values, y
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("reparametrize", [
    lambda layer: parametrize.register_parametrization(layer, "weight", nn.Softplus()),
    lambda layer: prune.l1_unstructured(layer, "weight", 2),
])  # fmt: skip
def test_parametrized_layers_are_not_prepared(reparametrize, taken):
    layer, x = BatchNorm1d(5), torch.randn(6, 5)
    meet(layer, x)
    reparametrize(layer)
    before = layer(x)
    layer(x)
    assert len(taken) == 1
    assert torch.allclose(before, layer.weight * unprepared(BatchNorm1d(5, affine=False))(x))


def test_number_of_threads(two_threads):
    layer = BatchNorm1d(300)
    twin, x, g = unprepared(layer), torch.randn(400, 300), torch.randn(400, 300)
    for threads in (2, 2, 2, 1, 1, 2):
        torch.set_num_threads(threads)
        assert same(step(layer, x, g), step(twin, x, g))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system forks no processes")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_of_a_fork(two_threads):
    layer, x, g = BatchNorm1d(300), torch.randn(400, 300), torch.randn(400, 300)
    for _ in range(3):
        step(layer, x, g)
    expected = unprepared(layer)(x).detach().numpy()
    child = os.fork()
    if child == 0:
        # torch's own operations would wait for threads that the child does not have
        torch.utils.deterministic.fill_uninitialized_memory = False
        signal.alarm(20)
        os._exit(0 if numpy.allclose(layer(x).detach().numpy(), expected, atol=1e-5) else 1)
    assert os.waitpid(child, 0)[1] == 0


COPIES = {
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "oldest pickle": lambda layer: pickle.loads(pickle.dumps(layer, 0)),
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_prepare_their_own_calls(way, taken):
    layer, x = BatchNorm1d(5), torch.randn(6, 5)
    before = set(vars(layer))
    meet(layer, x)
    assert set(vars(layer)) == before
    other = COPIES[way](layer)
    assert other._prepared_calls is not layer._prepared_calls
    assert len(other._prepared_calls._kinds) == 0
    meet(other.eval(), x, 3)
    assert torch.equal(other(x), unprepared(other)(x))


def test_a_layer_that_was_made_without_its_class_runs(taken):
    layer, x = BatchNorm1d(5), torch.randn(6, 5)
    bare = object.__new__(BatchNorm1d)
    vars(bare).update(vars(layer))
    want = copy.deepcopy(layer)(x)
    assert torch.equal(bare(x), want)


def test_a_users_attribute_may_be_named_prepared():
    class Mine(BatchNorm1d):
        def prepared(self):
            return "mine"

    layer = Mine(5)
    layer(torch.randn(6, 5))
    assert layer.prepared() == "mine"


@pytest.mark.parametrize("wrong", [{"running_mean": None}, {"running_var": None}])
def test_what_is_refused_once_is_refused_again(wrong):
    layer = BatchNorm1d(5)
    layer.freeze()
    for name, value in wrong.items():
        setattr(layer, name, value)
    for _ in range(3):
        with pytest.raises(InputError):
            layer(torch.randn(6, 5))


def test_a_missing_running_variance_leaves_training_by_the_batch():
    layer, x = BatchNorm1d(5), torch.randn(6, 5)
    layer.running_var = None
    want = layer(x)
    for _ in range(3):
        assert torch.equal(layer(x), want)


def test_a_batch_that_a_hook_brings_back_in_another_layout_has_the_same_gradients(taken):
    layer, x = BatchNorm2d(3), torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    g = torch.randn(4, 3, 5, 5)
    for _ in range(3):
        (want,) = torch.autograd.grad(layer(x), x, g)
    y = layer(x)
    y.grad_fn._raw_saved_tensors[0].register_hooks(lambda t: t.contiguous(), lambda t: t)
    (got,) = torch.autograd.grad(y, x, g)
    assert taken
    torch.testing.assert_close(got, want)


def test_classes_of_others_are_not_prepared(taken):
    class Mine(BatchNorm1d):
        pass

    layer = Mine(5)
    meet(layer, torch.randn(6, 5), 3)
    assert layer._prepared_calls is None
    assert not taken
