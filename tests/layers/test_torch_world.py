"""The layers among torch's other tools: transforms, export, mixed precision, averaging, converters."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.nn.utils import parametrize, prune

import normsmith.layers as ours
from normsmith.errors import InputError, NormsmithError, SurgeryError

PLAIN = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]
RENORM = ["BatchRenorm1d", "BatchRenorm2d", "BatchRenorm3d"]
ACT = [
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
    "BatchRenormAct1d",
    "BatchRenormAct2d",
    "BatchRenormAct3d",
]
SPACES = {"1d": (), "2d": (4, 4), "3d": (3, 3, 3)}


def make(name, **options):
    if "Renorm" in name:
        options.setdefault("schedule", "keras")
    layer = getattr(ours, name)(3, **options)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.normal_()
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return layer


def batch(name, rows=6):
    return torch.randn(rows, 3, *SPACES[name[-2:]])


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


@pytest.mark.parametrize("name", PLAIN + RENORM)
def test_fuse_conv_bn_eval_is_right(name):
    kind = name[-2:]
    conv = getattr(nn, f"Conv{kind}")(2, 3, 1).eval()
    norm = make(name).eval()
    x = torch.randn(4, 2, *(SPACES[kind] or (5,)))
    fused = nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
    torch.testing.assert_close(fused(x), norm(conv(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ACT)
def test_fuse_conv_bn_eval_refuses_activations(name):
    conv = getattr(nn, f"Conv{name[-2:]}")(2, 3, 1).eval()
    with pytest.raises(InputError, match=f"{name} has no eps: torch's fusers"):
        nn.utils.fusion.fuse_conv_bn_eval(conv, make(name).eval())
    linear = nn.Linear(2, 3).eval()
    with pytest.raises(InputError, match="has no eps"):
        nn.utils.fusion.fuse_linear_bn_eval(linear, make(name).eval())


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (make("BatchRenorm1d", track="std"), "drop the running standard deviation"),
        (make("BatchNorm1d").freeze("batch"), "drop the statistics frozen to the batch's"),
    ],
    ids=["std", "frozen"],
)
def test_fusers_refuse_what_evaluates_unlike_torch(layer, says):
    conv, linear = nn.Conv1d(2, 3, 1).eval(), nn.Linear(2, 3).eval()
    with pytest.raises(InputError, match=says):
        nn.utils.fusion.fuse_conv_bn_eval(conv, layer.eval())
    with pytest.raises(InputError, match=says):
        nn.utils.fusion.fuse_linear_bn_eval(linear, layer)
    norm = layer.unfreeze()
    assert norm.epsilon == 1e-5
    assert "eps=1e-05" in repr(copy.deepcopy(norm))


def test_fuse_linear_bn_eval_is_right():
    linear, norm, x = nn.Linear(2, 3).eval(), make("BatchRenorm1d").eval(), torch.randn(4, 2)
    torch.testing.assert_close(nn.utils.fusion.fuse_linear_bn_eval(linear, norm)(x), norm(linear(x)))


@pytest.mark.parametrize("name", PLAIN)
def test_convert_sync_batchnorm_of_a_plain_layer_is_right(name):
    layer = make(name).eval()
    net = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(copy.deepcopy(layer)))
    assert isinstance(net[0], nn.SyncBatchNorm)
    x = batch(name)
    torch.testing.assert_close(net(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        *(make(name) for name in RENORM),
        make("BatchNorm1d", ghost_batch_size=2),
        make("BatchNorm1d", process_group="world"),
        make("BatchNorm1d", on_small_batch="running"),
        make("BatchNorm2d").freeze(),
    ],
    ids=lambda layer: repr(layer)[:60],
)
def test_convert_sync_batchnorm_refuses_what_it_would_drop(layer):
    with pytest.raises(SurgeryError, match="would silently drop"):
        nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(layer))


@pytest.mark.parametrize("name", ACT)
def test_convert_sync_batchnorm_leaves_activations_alone(name):
    net = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(make(name)))
    assert type(net[0]).__name__ == name


@pytest.mark.parametrize("name", [name for name in PLAIN + RENORM + ACT if not name.endswith("1d")])
def test_quantisation_fusers_refuse(name):
    net = nn.Sequential(getattr(nn, f"Conv{name[-2:]}")(2, 3, 1), make(name)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its own quantisation
        from torch.ao.quantization import fuse_modules

        with pytest.raises((AssertionError, NormsmithError), match=r"did not find fuser|drop"):
            fuse_modules(net, [["0", "1"]])


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


def test_second_gradients_go_by_the_mask_of_the_forward():
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


@pytest.mark.compiles
@pytest.mark.parametrize("name", ["BatchNorm2d", "BatchRenorm2d", "BatchNormAct2d"])
def test_symbolic_traces_call_the_layer(name):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(make(name)))
    traced, x = fx.symbolic_trace(copy.deepcopy(net)), batch(name)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["0", "1.0"]
    torch.testing.assert_close(traced(x), net(x))
    torch.testing.assert_close(traced.get_submodule("1.0").running_var, net[1][0].running_var)


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
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, layer(x).detach().numpy(), rtol=1e-5, atol=1e-5)


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
