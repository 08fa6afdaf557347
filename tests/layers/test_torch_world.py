"""The layers among torch's other tools: transforms, export, mixed precision, averaging, converters."""

import copy
import warnings

import numpy as np
import pytest
import torch
from tests.layers.kinds import ACT, PLAIN, RENORM, batch, make
from torch import nn
from torch.nn.utils import parametrize, prune

import normsmith.layers as ours


@pytest.mark.parametrize("name", PLAIN + RENORM + ACT)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_autocast(name, dtype, training):
    layer = make(name).train(training)
    twin = copy.deepcopy(layer)
    x = batch(name)
    with torch.autocast("cpu", dtype=dtype):
        low = layer(x.to(dtype))
        same = copy.deepcopy(twin)(x)
    assert low.dtype == dtype
    assert layer.running_mean.dtype == torch.float32
    assert same.dtype == torch.float32
    torch.testing.assert_close(low.float(), twin(x.to(dtype).float()), rtol=1e-2, atol=1e-2)
    low.float().sum().backward()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", PLAIN + RENORM + ACT)
@pytest.mark.parametrize("training", [True, False])
def test_vmap_over_stacked_models(name, training):
    models = [make(name).train(training) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)
    x = torch.stack([batch(name) for _ in models])
    base = copy.deepcopy(models[0])

    def loss(parameters, buffers, x):
        return torch.func.functional_call(base, (parameters, buffers), (x,)).square().sum()

    gradients = torch.vmap(torch.func.grad(loss))(parameters, buffers, x)
    for index, model in enumerate(models):
        model(x[index]).square().sum().backward()
        scale = model.weight.grad.abs().max()
        torch.testing.assert_close(
            gradients["weight"][index] / scale, model.weight.grad / scale, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(buffers["running_var"][index], model.running_var)
        assert buffers["num_batches_tracked"][index] == model.num_batches_tracked


FUNCTIONALIZED = [
    *((name, {}) for name in PLAIN + RENORM + ACT),
    ("BatchNorm2d", {"momentum": None}),
    ("BatchNorm2d", {"ghost_batch_size": 2}),
    ("BatchRenorm2d", {"track": "std"}),
]


@pytest.mark.parametrize(("name", "options"), FUNCTIONALIZED)
@pytest.mark.parametrize("training", [True, False])
def test_functionalized_with_buffers_that_it_was_not_given(name, options, training):
    layer = make(name, **options).train(training)
    twin, x = copy.deepcopy(layer), batch(name)
    torch.testing.assert_close(torch.func.functionalize(layer)(x), twin(x))
    torch.testing.assert_close(layer.state_dict(), twin.state_dict())


def test_a_recurrent_network_is_functionalized_too():
    network, x = ours.BatchNormLSTM(3, 4), torch.randn(5, 6, 3)
    twin = copy.deepcopy(network)
    torch.testing.assert_close(torch.func.functionalize(network)(x)[0], twin(x)[0])
    torch.testing.assert_close(network.state_dict(), twin.state_dict())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, within jvp
def test_forward_mode():
    layer = make("BatchNorm1d").double()
    x = torch.randn(6, 3, dtype=torch.float64)

    def run(x):
        return copy.deepcopy(layer)(x)

    _, tangent = torch.func.jvp(run, (x,), (torch.ones_like(x) * x.cos(),))
    jacobian = torch.autograd.functional.jacobian(run, x)
    torch.testing.assert_close(tangent, torch.einsum("abcd,cd->ab", jacobian, x.cos()))


def test_averaged_model():
    net = nn.Sequential(make("BatchNorm1d"))
    average = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)
    for _ in range(3):
        net(batch("BatchNorm1d"))
        average.update_parameters(net)
    assert average.eval()(batch("BatchNorm1d")).isfinite().all()
    assert average.module[0].running_mean.dtype == torch.float32


def test_replace_all_batch_norm_modules_makes_evaluation_follow_the_batch():
    layer = make("BatchNorm1d").eval()
    torch.func.replace_all_batch_norm_modules_(layer)
    x = batch("BatchNorm1d")
    fresh = make("BatchNorm1d", track_running_stats=True)
    fresh.load_state_dict(layer.state_dict(), strict=False)
    torch.testing.assert_close(layer(x), fresh(x))


@pytest.mark.compiles
@pytest.mark.parametrize("name", PLAIN + RENORM + ACT)
def test_export_in_evaluation(name):
    layer = make(name).eval()
    x = batch(name)
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-5, atol=1e-5)
    if "Act" not in name:
        assert any("batch_norm" in str(node.target) for node in program.graph.nodes)


class Doubled(nn.Module):
    def forward(self, value):
        return 2 * value


def parametrized(layer):
    parametrize.register_parametrization(layer, "weight", Doubled())


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 1)


def as_tensor(layer):
    value = layer.weight.detach() * 3
    del layer.weight
    layer.weight = value


@pytest.mark.parametrize("change", [parametrized, pruned, as_tensor])
@pytest.mark.parametrize("training", [True, False])
def test_vectors_that_are_no_parameters(change, training):
    layer = make("BatchNorm2d").train(training)
    other = nn.BatchNorm2d(3).train(training)
    other.load_state_dict(layer.state_dict())
    for each in (layer, other):
        change(each)
    x = batch("BatchNorm2d")
    torch.testing.assert_close(layer(x), other(x), rtol=1e-5, atol=1e-5)


def test_replicas_of_data_parallel():
    layer, x = make("BatchNorm2d"), batch("BatchNorm2d")
    replica = layer._replicate_for_data_parallel()  # its vectors are copies, set as attributes
    replica.weight, replica.bias = layer.weight.clone(), layer.bias.clone()
    for name, buffer in layer.named_buffers():
        setattr(replica, name, buffer.clone())
    y = replica(x)
    y.square().sum().backward()
    torch.testing.assert_close(y, copy.deepcopy(layer)(x))
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", PLAIN + RENORM + ACT)
def test_batched_gradients(name):
    layer, x = make(name).double(), batch(name).double().requires_grad_()
    y = layer(x)
    directions = torch.randn(4, *y.shape, dtype=y.dtype)
    (together,) = torch.autograd.grad(y, x, directions, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y, x, direction, retain_graph=True)[0] for direction in directions]
    torch.testing.assert_close(together, torch.stack(each))


def test_second_gradients_use_the_mask_of_the_forward():
    layer, x = make("BatchNorm2d").double(), batch("BatchNorm2d").double().requires_grad_()
    mask = torch.rand(6, 4, 4) < 0.7

    def gradient(change):
        given = mask.clone()
        y = layer(x, mask=given)
        if change:
            given.logical_not_()
        return torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)[0]

    layer.freeze("batch")
    torch.testing.assert_close(gradient(True), gradient(False))


@pytest.mark.parametrize("name", PLAIN + RENORM + ACT)
def test_the_input_has_torchs_name(name):
    layer, x = make(name).eval(), batch(name)
    assert torch.equal(layer(input=x), layer(x))


@pytest.mark.compiles
@pytest.mark.parametrize("name", ["BatchNorm2d", "BatchRenorm2d", "BatchNormAct2d"])
def test_export_in_training_serves_other_sizes(name):
    layer = make(name)
    sizes = {0: torch.export.Dim("rows", min=2), 2: torch.export.Dim("height")}
    module = torch.export.export(layer, (batch(name),), dynamic_shapes=(sizes,)).module()
    twin, x = copy.deepcopy(layer), torch.randn(9, 3, 7, 4)
    torch.testing.assert_close(module(x), twin(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module.running_var, twin.running_var)


@pytest.mark.compiles
@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d", "BatchRenorm2d", "BatchNormAct2d"])
def test_onnx_gives_the_same_numbers(name, tmp_path):
    import onnxruntime

    layer = make(name).eval()
    x = batch(name)
    path = tmp_path / "layer.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(layer, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(output, layer(x).detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.compiles
@pytest.mark.parametrize("training", [True, False])
def test_compiles_with_everything_on(training):
    torch._dynamo.reset()
    layer = ours.BatchRenormAct1d(
        3, total_steps=10, ghost_batch_size=3, activation="silu", momentum=None
    ).train(training)
    twin = copy.deepcopy(layer)
    x, residual = torch.randn(8, 3, 5).requires_grad_(), torch.randn(8, 3, 5)
    mask, weight = torch.rand(8, 5) < 0.7, torch.rand(8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x.grad = None
        y = compiled(x, mask=mask, sample_weight=weight, residual=residual)
        y.square().sum().backward()
        z = x.detach().clone().requires_grad_()
        want = twin(z, mask=mask, sample_weight=weight, residual=residual)
        want.square().sum().backward()
        torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(x.grad, z.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.running_var, twin.running_var)


@pytest.mark.compiles
def test_compiled_gradients_do_not_change_when_buffers_do():
    torch._dynamo.reset()
    for layer in (make("BatchRenorm1d"), make("BatchNorm1d").eval()):
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        x = torch.randn(6, 3).requires_grad_()
        y = compiled(x).sum() * 2
        want = torch.autograd.grad(y, layer.weight, retain_graph=True)[0]
        layer.running_mean.data.add_(100)
        layer.running_var.data.mul_(100)
        assert torch.equal(torch.autograd.grad(y, layer.weight)[0], want)
