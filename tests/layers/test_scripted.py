"""TorchScript: a model in evaluation scripts as one of torch's layers, or says what to do."""

import copy
import io
import warnings

import pytest
import torch
from tests.layers.kinds import ACT, PLAIN, RENORM, batch, make
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import normsmith.layers as ours
from normsmith import surgery
from normsmith.errors import InputError
from normsmith.layers.policy import Policy
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


# A model after it was scripted: to Python as it was.


def scripted_model():
    norms = [make("BatchNorm1d"), make("BatchRenorm1d", track="std"), make("BatchNormAct1d")]
    net = nn.Sequential(*norms, nn.Linear(3, 3)).eval()
    twin = copy.deepcopy(net)
    torch.jit.script(net)
    assert not any(module is norm for module, norm in zip(net, norms, strict=False))
    return net, twin, norms


def pickled(net):
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def test_its_state_is_read_and_loaded():
    net, twin, norms = scripted_model()
    torch.testing.assert_close(net.state_dict(), twin.state_dict(), rtol=0, atol=0)
    assert list(net[:3]) == norms
    net, twin, norms = scripted_model()
    doubled = {name: 2 * value for name, value in twin.state_dict().items()}
    net.load_state_dict(doubled, assign=True)
    torch.testing.assert_close(net.train().state_dict(), doubled, rtol=0, atol=0)
    assert list(net[:3]) == norms


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_its_copies_hold_layers(copied):
    net, twin, _ = scripted_model()
    other, x = copied(net), batch("BatchNorm1d")
    assert [type(module) for module in other] == [type(module) for module in twin]
    torch.testing.assert_close(other.train()(x), twin.train()(x), rtol=0, atol=0)


def test_it_moves_to_another_dtype_whole():
    net, twin, _ = scripted_model()
    net.double().train()(batch("BatchNorm1d").double())
    twin.double().train()(batch("BatchNorm1d").double())
    assert {name: value.dtype for name, value in net.state_dict().items()} == {
        name: value.dtype for name, value in twin.state_dict().items()
    }


def test_its_parameters_are_the_layers():
    net = nn.Sequential(make("BatchNorm1d"), make("BatchNormAct1d")).half().eval()
    before = list(net.parameters())
    torch.jit.script(net)
    assert all(after is parameter for after, parameter in zip(net.parameters(), before, strict=True))


def test_blocks_and_settings_reach_the_layers():
    net, twin, norms = scripted_model()
    x, mask = batch("BatchNorm1d"), torch.tensor([1, 1, 1, 0, 1, 1])
    with ours.use_mask(net, mask), ours.use_mask(twin, mask):
        torch.testing.assert_close(net(x), twin(x))
    assert list(net[:3]) == norms
    assert [norm.pinned for norm in ours.freeze(scripted_model()[0])[:3]] == [Policy("running", False)] * 3
    net, _, norms = scripted_model()
    net[0].freeze()
    assert norms[0].pinned is not None
    assert net[0].epsilon == norms[0].eps
    with pytest.raises(AttributeError, match="'BatchNorm1d' object has no attribute 'nothing'"):
        net[0].nothing  # noqa: B018
    surgery.convert(scripted_model()[0], to="renorm", total_steps=100)


def test_what_is_set_or_reset_is_that_of_the_layers():
    net, _, norms = scripted_model()
    for norm in list(net[:3]):
        norm.momentum, norm.weight = None, nn.Parameter(torch.full((3,), 2.0))
        norm.reset_running_stats()
    assert all(net[place] is norm for place, norm in enumerate(norms))
    assert [norm.momentum for norm in norms] == [None] * 3
    assert all(torch.equal(norm.weight, torch.full((3,), 2.0)) for norm in norms)
    assert torch.equal(norms[1].running_std, torch.ones(3))
    net, _, norms = scripted_model()
    net[1].reset_parameters()
    assert torch.equal(norms[1].weight, torch.ones(3))
    net, twin, norms = scripted_model()
    net[0].training = True
    assert norms[0].training
    torch.optim.swa_utils.update_bn([batch("BatchNorm1d")], net)
    assert [norm.momentum for norm in norms] == [norm.momentum for norm in twin[:3]]


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = make("BatchNorm1d")

    def forward(self, x, mask):
        return self.norm(x, mask=mask)


def test_a_script_that_fails_leaves_the_model_as_it_was():
    net, x, mask = Masked().eval(), torch.randn(4, 3, 5), torch.rand(4, 5) < 0.6
    want, norm = net(x, mask), net.norm
    with pytest.raises(RuntimeError, match="mask"):
        torch.jit.script(net)
    torch.testing.assert_close(net(x, mask), want, rtol=0, atol=0)
    assert net.norm is norm


def test_it_is_scripted_again_traced_and_compiled():
    net, twin, _ = scripted_model()
    x = batch("BatchNorm1d")
    want = twin(x)
    for made in (torch.jit.script(net), torch.jit.trace(net, x), torch.fx.symbolic_trace(net)):
        torch.testing.assert_close(made(x), want, rtol=1e-4, atol=1e-5)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), want, rtol=1e-4, atol=1e-5)
    assert net[2].activation == "relu"


def test_tied_layers_stay_tied_and_handles_of_hooks_go_on():
    net = nn.Sequential(norm := make("BatchNorm1d"), nn.ReLU(), norm).eval()
    calls = []
    torch.jit.script(net)
    handle = net[0].register_forward_hook(lambda module, *_: calls.append(module))
    twin = copy.deepcopy(net)
    assert twin[0] is twin[2]
    assert net.train()[0] is net[2] is norm
    net(batch("BatchNorm1d"))
    assert calls == [norm, norm]
    handle.remove()
    net(batch("BatchNorm1d"))
    assert calls == [norm, norm]


def test_all_layers_return_at_once():
    net = nn.Sequential(*(make("BatchNorm1d") for _ in range(3)))
    norms = list(net)
    torch.jit.script(net.eval())
    net[0].train()
    assert list(net) == norms


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
