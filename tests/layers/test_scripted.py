"""TorchScript: a model in evaluation scripts as one of torch's layers, or says what to do."""

import copy
import warnings

import pytest
import torch
from tests.layers.kinds import ACT, PLAIN, RENORM, batch, make
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers.scripted import activated
from normsmith.ops import ACTIVATIONS

pytestmark = [pytest.mark.compiles, pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")]
SETTINGS = [
    ("BatchNorm1d", {"momentum": None}),
    ("BatchNorm2d", {"track_running_stats": True, "eps": 1e-2}),
    ("BatchNorm2d", {"ghost_batch_size": 2}),
    ("BatchNorm2d", {"on_small_batch": "running"}),
    ("BatchRenorm2d", {"track": "std"}),
    ("BatchRenormAct1d", {"track": "std", "activation": "silu"}),
    *(("BatchNormAct2d", {"activation": name}) for name in (None, *ACTIVATIONS)),
]


def conv(name):
    return nn.Linear(3, 3) if name.endswith("1d") else getattr(nn, f"Conv{name[-2:]}")(3, 3, 1)


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in PLAIN + RENORM + ACT), *SETTINGS])
def test_a_scripted_model_evaluates_the_same_and_the_model_trains_on_as_it_was(name, options):
    net = nn.Sequential(conv(name), make(name, **options)).eval()
    layer, twin, x = net[1], copy.deepcopy(net), batch(name)
    scripted = torch.jit.script(net)
    torch.testing.assert_close(scripted(x), twin(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.jit.freeze(scripted)(x), twin(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x), twin(x), rtol=1e-4, atol=1e-5)
    assert net.train()[1] is layer
    for _ in range(2):
        torch.testing.assert_close(net(x), twin.train()(x), rtol=0, atol=0)
    torch.testing.assert_close(net.state_dict(), twin.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_layer_is_torchs(name):
    net = nn.Sequential(make(name)).eval()
    scripted = torch.jit.script(net)
    assert isinstance(net[0], getattr(nn, name))
    assert scripted.state_dict().keys() == nn.Sequential(make(name)).state_dict().keys()
    x, other = batch(name), getattr(nn, name)(3)
    other.load_state_dict(copy.deepcopy(net[0].state_dict()))
    torch.testing.assert_close(scripted.train()(x), other(x))


def test_what_only_evaluates_says_so_when_it_is_to_train():
    scripted = torch.jit.script(nn.Sequential(make("BatchRenorm2d")).eval())
    with pytest.raises(torch.jit.Error, match="scripted in evaluation"):
        scripted.train()(batch("BatchRenorm2d"))


def test_a_frozen_layer_evaluates_whatever_the_model_does():
    net, x = nn.Sequential(make("BatchNorm2d").freeze()), batch("BatchNorm2d")
    want = net(x)
    torch.testing.assert_close(torch.jit.script(net).train()(x), want)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = make("BatchNormAct1d")

    def forward(self, x, mask):
        return self.norm(x, mask=mask, residual=x)


def test_masks_and_residuals_are_arguments_of_the_scripted_layer():
    block, x, mask = Block().eval(), torch.randn(4, 3, 5), torch.rand(4, 5) < 0.6
    want = block(x, mask)
    torch.testing.assert_close(torch.jit.script(block)(x, mask), want)
    with pytest.raises(torch.jit.Error, match="expected an input of"):
        torch.jit.script(make("BatchNormAct2d").eval())(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    layer, x = make("BatchNorm2d").to(dtype).eval(), batch("BatchNorm2d").to(dtype)
    scripted = torch.jit.script(nn.Sequential(layer))
    assert scripted(x).dtype == dtype
    torch.testing.assert_close(scripted(x), layer(x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_the_operation(name):
    x = torch.randn(100)
    torch.testing.assert_close(activated(x, name), ACTIVATIONS[name].forward(x))


def parametrized():
    return weight_norm(ours.BatchNorm1d(3), dim=None).eval()


def masked():
    layer = make("BatchNorm1d").eval()
    layer.context_mask = torch.ones(6)
    return layer


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (lambda: make("BatchNorm1d"), r"call model.eval\(\) first"),
        (lambda: make("BatchRenorm1d"), r"call model.eval\(\) first"),
        (lambda: make("BatchNorm1d").eval().freeze("batch"), "normalises by its batch"),
        (parametrized, "remove_parametrizations first"),
        (masked, "script outside of the block"),
        (lambda: ours.LazyBatchNorm1d().eval(), "run the model once first"),
        (lambda: ours.Whiten1d(3).eval(), "no counterpart of Whiten1d; record it with torch.jit.trace"),
        (lambda: ours.InputNorm(3).eval(), "no counterpart of InputNorm; record it"),
        (lambda: ours.BatchNormLSTM(3, 2).eval(), "no counterpart of BatchNormLSTM; record it"),
    ],
)
def test_what_cannot_be_scripted_says_what_to_do(layer, says):
    with pytest.raises(InputError, match=rf"^Sequential\.0: torch.jit.script: .*{says}"):
        torch.jit.script(nn.Sequential(layer()))


class OwnForward(ours.BatchNorm1d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * input


def test_a_class_of_others_with_a_forward_of_its_own_is_not_exchanged():
    assert OwnForward(3).__prepare_scriptable__().__class__ is OwnForward


# torch.jit.trace.

RECORDED = [*PLAIN, *RENORM, *ACT, "Whiten1d", "Whiten2d", "InputNorm", "BatchNormLSTM", "BatchNormGRU"]


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("training", [True, False])
def test_every_layer_is_recorded(name, training):
    recurrent = name in ("BatchNormLSTM", "BatchNormGRU")
    layer = (
        getattr(ours, name)(3, 4)
        if recurrent
        else make(name)
        if name in PLAIN + RENORM + ACT
        else getattr(ours, name)(3)
    ).train(training)
    net = nn.Sequential(layer)
    shape = (6, 5, 3) if recurrent else (6, 3, 4, 4) if name == "InputNorm" else None
    x, y = (torch.randn(*shape) if shape else batch(name) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constants of the trace, such as the number of channels
        traced = torch.jit.trace(net, x, check_trace=False)
    twin = copy.deepcopy(net)
    got, want = traced(y), twin(y)
    if recurrent:
        got, want = got[0], want[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-5)
