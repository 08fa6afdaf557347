"""Inputs that are not strided: MKLDNN's work in every layer, others are refused by name."""

import copy
import re

import pytest
import torch
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError

LAYERS = {
    "BatchNorm2d": lambda: ours.BatchNorm2d(3),
    "BatchRenorm2d": lambda: ours.BatchRenorm2d(3, schedule="constant"),
    "BatchNormAct2d": lambda: ours.BatchNormAct2d(3, activation="silu"),
    "BatchRenormAct2d": lambda: ours.BatchRenormAct2d(3, schedule="constant"),
    "Whiten2d": lambda: ours.Whiten2d(3),
    "InputNorm": lambda: ours.InputNorm(3),
}
mkldnn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no MKLDNN")


@mkldnn
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_the_layout_of_mkldnn_goes_in_and_comes_out(name, training):
    layer = LAYERS[name]().train(training)
    twin, x = copy.deepcopy(layer), torch.randn(4, 3, 5, 5)
    y = layer(x.to_mkldnn())
    assert y.is_mkldnn
    torch.testing.assert_close(y.to_dense(), twin(x), rtol=0, atol=0)
    torch.testing.assert_close(layer.state_dict(), twin.state_dict(), rtol=0, atol=0)


@mkldnn
def test_gradients_pass_through_it():
    layer, x = ours.BatchNormAct2d(3), torch.randn(4, 3, 5, 5).requires_grad_()
    residual = torch.randn(4, 3, 5, 5)
    layer(x.to_mkldnn(), residual=residual.to_mkldnn()).to_dense().square().sum().backward()
    z = x.detach().clone().requires_grad_()
    ours.BatchNormAct2d(3)(z, residual=residual).square().sum().backward()
    torch.testing.assert_close(x.grad, z.grad)


@mkldnn
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, in what it converts to
@pytest.mark.parametrize(
    "name", ["BatchNormAct2d", "Whiten2d"]
)  # torch's own, which it converts, does not run then
def test_a_layer_in_a_model_converted_to_it_evaluates_the_same(name):
    from torch.utils.mkldnn import to_mkldnn

    net = nn.Sequential(nn.Conv2d(3, 3, 1), LAYERS[name]())
    net(torch.randn(4, 3, 5, 5) * 2 + 1)
    net.eval()
    x = torch.randn(4, 3, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(to_mkldnn(net)(x.to_mkldnn()).to_dense(), net(x), rtol=1e-4, atol=1e-5)


REFUSED = {
    "sparse": (
        lambda x: x.to_sparse(),
        r"a tensor of layout torch.sparse_coo; convert it with .to_dense\(\)",
    ),
    "nested": (lambda x: torch.nested.nested_tensor(list(x)), "a nested tensor; pad it"),
    "jagged": (lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged), "a nested tensor; pad it"),
    "quantised": (
        lambda x: torch.quantize_per_tensor(x, 0.1, 3, torch.quint8),
        "got quantised values .* fold",
    ),
}


@pytest.mark.filterwarnings("ignore")  # torch warns of nested and quantised tensors
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("training", [True, False])
def test_others_are_refused_and_nothing_is_updated(name, kind, training):
    layer = LAYERS[name]().train(training)
    before = copy.deepcopy(layer.state_dict())
    make, says = REFUSED[kind]
    with pytest.raises(InputError, match=f"^Sequential.0: expected one block .*{says}"):
        nn.Sequential(layer)(make(torch.randn(4, 3, 5, 5)))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.compiles  # where the shapes of arguments are checked, that check comes first
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "given", [None, "text", torch.ones(4, 3, 5, 5).numpy(), [1.0]], ids=lambda value: str(type(value))
)
def test_what_is_no_tensor_is_named(name, given):
    kind = re.escape(str(type(given)))
    with pytest.raises(InputError, match=rf"^Sequential\.0: expected a tensor, got {kind}; make one"):
        nn.Sequential(LAYERS[name]())(given)
