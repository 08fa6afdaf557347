"""torch's own quantisation of a network that holds a norm of ours: the norm stays as it is, in floating point."""

import copy

import pytest
import torch
from torch import nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx

import normsmith
import normsmith.layers as ours
from normsmith.errors import InputError, SurgeryError

NORMS = {
    "plain": lambda: ours.BatchNorm2d(8),
    "renorm": lambda: ours.BatchRenorm2d(8, schedule="constant"),
    "renorm of deviations": lambda: ours.BatchRenorm2d(8, schedule="constant", track="std"),
    "ghost": lambda: ours.BatchNorm2d(8, ghost_batch_size=2),
    "frozen": lambda: ours.BatchNorm2d(8).freeze(),
    "activation": lambda: ours.BatchNormAct2d(8),
    "whitening": lambda: ours.Whiten2d(8),
    "inputs": lambda: ours.InputNorm(8),
}

pytestmark = pytest.mark.filterwarnings("ignore")  # torch deprecates its own quantisation


@pytest.fixture(autouse=True)
def engine():
    before = torch.backends.quantized.engine
    if torch.backends.quantized.supported_engines[-1:] in ([], ["none"]):
        pytest.skip("this torch has no quantised kernels")
    torch.backends.quantized.engine = torch.backends.quantized.supported_engines[-1]
    yield
    torch.backends.quantized.engine = before


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8)


def network(norm, x):
    """A network with a norm in the middle, after some forwards."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), NORMS[norm](), nn.ReLU(), nn.Conv2d(8, 4, 1))
    net(3 * x + 1)
    return net


def between_stubs(net):
    return nn.Sequential(quantization.QuantStub(), *net, quantization.DeQuantStub())


def assert_close(quantised, exact):
    """Eight bits a tensor, in a few layers one after the other."""
    assert (quantised - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("norm", NORMS)
def test_dynamic_quantisation_of_the_rest(norm, x):
    net = nn.Sequential(network(norm, x), nn.Flatten(), nn.Linear(144, 5)).eval()
    quantised = quantization.quantize_dynamic(net, {nn.Linear})
    assert type(quantised[0][1]) is type(net[0][1])
    assert not hasattr(quantised[0][1], "qconfig")
    assert_close(quantised(x), net(x))


@pytest.mark.compiles
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [False, True], ids=["after training", "while training"])
def test_graphs_keep_the_norm(norm, training, x):
    net = network(norm, x).train(training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    if training:
        mapping = quantization.get_default_qat_qconfig_mapping()
        prepared = quantize_fx.prepare_qat_fx(copy.deepcopy(net), mapping, (x,))
        prepared(x).sum().backward()
        prepared.eval()
    else:
        mapping = quantization.get_default_qconfig_mapping()
        prepared = quantize_fx.prepare_fx(copy.deepcopy(net), mapping, (x,))
    want = prepared(x) if training else net(x)
    prepared(x)
    quantised = quantize_fx.convert_fx(prepared)
    assert type(quantised.get_submodule("1")) is type(net[1])
    assert_close(quantised(x), want)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


@pytest.mark.compiles
@pytest.mark.parametrize("norm", NORMS)
def test_fused_graphs_compute_the_same(norm, x):
    net = network(norm, x).eval()
    torch.testing.assert_close(quantize_fx.fuse_fx(copy.deepcopy(net))(x), net(x))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("fuse", [quantization.fuse_modules, quantization.fuse_modules_qat])
def test_fusing_by_name_says_what_to_do_first(norm, fuse, x):
    net = network(norm, x).train(fuse is quantization.fuse_modules_qat)
    do = "fold it first .* or normsmith.convert" if net[1].is_batch_norm else "leave it out"
    with pytest.raises(SurgeryError, match=rf"^Sequential\.1: .* {do}") as error:
        fuse(net, [["0", "1"]])
    assert "\n" not in str(error.value)


def test_what_it_says_to_do_works(x):
    net = network("plain", x).eval()
    want = net(x)
    normsmith.convert(net, to="torch")
    fused = quantization.fuse_modules(net, [["0", "1", "2"]])
    torch.testing.assert_close(fused(x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_that_is_left_out_serves_a_quantised_network(norm, x):
    net = network(norm, x).eval()
    model = nn.Sequential(quantization.QuantStub(), net[0], quantization.DeQuantStub(), net[1:]).eval()
    model.qconfig, model[3].qconfig = quantization.get_default_qconfig(), None
    prepared = quantization.prepare(model)
    prepared(x)
    assert_close(quantization.convert(prepared)(x), net(x))


@pytest.mark.parametrize("norm", NORMS)
def test_quantised_values_are_refused_with_what_to_do(norm, x):
    model = between_stubs(network(norm, x)).eval()
    model.qconfig = quantization.get_default_qconfig()
    prepared = quantization.prepare(model)
    prepared(x)
    quantised = quantization.convert(prepared)
    with pytest.raises(InputError, match=r"Sequential\.2: .*got quantised values .*fold"):
        quantised(x)


@pytest.mark.parametrize("norm", NORMS)
def test_training_for_quantisation_keeps_the_norm(norm, x):
    model = between_stubs(network(norm, x))
    model.qconfig = quantization.get_default_qat_qconfig()
    prepared = quantization.prepare_qat(model)
    prepared(x).sum().backward()
    assert type(prepared[2]) is type(model[2])
    assert all(parameter.grad.isfinite().all() for parameter in prepared.parameters())
