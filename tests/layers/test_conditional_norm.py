"""Class-conditional batch norm: statistics of all samples, γ and β of each sample's class."""

import copy
import pickle

import pytest
import torch
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers import ConditionalNorm, use_domain

SPACES = {"1d": (), "2d": (4, 3), "3d": (2, 3, 2)}


def made(name="2d", dtype=torch.float64, **options):
    layer = getattr(ours, f"ConditionalBatchNorm{name}")(3, 4, **options).to(dtype)
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    return layer


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("training", [True, False])
def test_it_is_batch_norm_then_the_embedding_of_the_class(name, training):
    layer = made(name).train(training)
    plain = getattr(nn, f"BatchNorm{name}")(3, affine=False, dtype=torch.float64).train(training)
    index, x = torch.tensor([3, 0, 0, 2, 3]), torch.randn(5, 3, *SPACES[name], dtype=torch.float64)
    x, twin, g = x.requires_grad_(), x.detach().clone().requires_grad_(), torch.randn_like(x)
    tables = [p.detach().clone().requires_grad_() for p in (layer.weight, layer.bias)]
    place = (...,) + (None,) * len(SPACES[name])
    expected = plain(twin) * tables[0][index][place] + tables[1][index][place]
    with use_domain(layer, index):
        y = layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    inputs = (x, layer.weight, layer.bias)
    ours_, theirs = torch.autograd.grad(y, inputs, g), torch.autograd.grad(expected, (twin, *tables), g)
    torch.testing.assert_close(ours_, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.norm.running_var, plain.running_var, rtol=1e-10, atol=1e-10)


def test_one_class_for_all_is_the_index_of_all():
    layer = made().eval()
    x = torch.randn(5, 3, 4, 3, dtype=torch.float64)
    with use_domain(layer, "2"):
        y = layer(x)
    with use_domain(layer, torch.full((5,), 2)):
        assert torch.equal(layer(x), y)


def test_masked_elements_are_zero_and_residuals_are_added():
    layer = made("1d")
    x, residual = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    mask, index = torch.tensor([1, 1, 1, 1, 0, 0]), torch.tensor([0, 1, 2, 3, 0, 1])
    twin = copy.deepcopy(layer)
    with use_domain(layer, index), ours.use_mask(layer, mask):
        y = layer(x, residual=residual)
    with use_domain(twin, index[:4]):
        torch.testing.assert_close(y[:4], twin(x[:4]) + residual[:4])
    assert (y[4:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    layer, x = made(dtype=torch.float32, default="1"), torch.randn(6, 3, 4, 3)
    full = layer(x)
    half = layer.to(dtype)(x.to(dtype))
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)


def test_copies_and_states_go_round_and_a_plain_checkpoint_is_every_classs_beginning():
    layer, x = made(default="3").eval(), torch.randn(5, 3, 4, 3, dtype=torch.float64)
    loaded = made(default="3").eval()
    loaded.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert torch.equal(twin(x), layer(x))
    plain = nn.BatchNorm2d(3, dtype=torch.float64)
    with torch.no_grad():
        plain.weight.normal_()
    plain(x)
    assert not any(layer.load_state_dict(plain.state_dict()))
    torch.testing.assert_close(layer(x), plain.eval()(x))
    assert layer.weight.shape == (4, 3)


def test_batches_of_another_length_move_no_statistics():
    layer = made("1d")
    with (
        use_domain(layer, torch.tensor([0, 1])),
        pytest.raises(InputError, match="expected an input of 2 rows"),
    ):
        layer(torch.randn(4, 3, dtype=torch.float64))
    assert layer.norm.num_batches_tracked == 0


@pytest.mark.parametrize("norm", [ours.BatchNorm1d(3), ours.BatchNormAct1d(3, affine=False)])
def test_norms_with_an_affine_or_activation_are_refused(norm):
    with pytest.raises(InputError, match="norm: expected a norm of normsmith with affine=False"):
        ConditionalNorm(norm, 2)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.compiles
def test_compiled_for_a_class_of_each_sample():
    torch._dynamo.reset()
    layer, x = made("1d", torch.float32), torch.randn(6, 3)
    twin, compiled = copy.deepcopy(layer), torch.compile(layer, backend="aot_eager", fullgraph=True)
    for index in (torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([3, 3, 3, 0, 0, 1])):
        with use_domain(layer, index), use_domain(twin, index):
            torch.testing.assert_close(compiled(x), twin(x))
    with use_domain(layer.eval(), "2"):
        exported = torch.export.export(layer, (x,))
        torch.testing.assert_close(exported.module()(x), layer(x))
        assert [node.op for node in torch.fx.symbolic_trace(nn.Sequential(layer)).graph.nodes][
            1
        ] == "call_module"
    with (
        use_domain(layer, torch.tensor([0, 1, 2, 3, 0, 1])),
        pytest.raises(InputError, match="expected one domain to export or trace, got an index"),
    ):
        torch.jit.trace(layer, x)
    with pytest.raises(InputError, match="torch has no counterpart of ConditionalBatchNorm1d"):
        torch.jit.script(layer)
