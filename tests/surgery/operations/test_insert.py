"""Insert into Sequentials, and on real networks: the structure, biases, refusals, and everything that must stay."""

import pytest
import torch
from tests.contracts.surgery import SurgeryContract
from tests.surgery.networks import HARD, REAL, Network, images
from tests.surgery.small import Residual, cnn, kinds, mlp, torch_batch_norm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normsmith.errors import InputError, SurgeryError
from normsmith.surgery import Plan, convert, fold, insert, strip, swap_activation, trace


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("before", ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]),
        ("after", ["Linear", "ReLU", "BatchNorm1d", "Linear", "ReLU", "BatchNorm1d", "Linear"]),
    ],
)
def test_insert_puts_a_norm_at_each_activation_and_none_after_the_logits(where, expected):
    model = mlp()
    assert insert(model, torch_batch_norm, where).apply() is model
    assert kinds(model) == expected
    assert model(torch.randn(16, 4)).shape == (16, 3)


def test_insert_removes_the_bias_only_where_the_norm_cancels_it():
    model = mlp()
    insert(model, torch_batch_norm, "before").apply()
    assert [layer.bias is None for layer in model if isinstance(layer, nn.Linear)] == [True, True, False]
    assert "0.bias" not in model.state_dict()

    model = mlp()
    insert(model, torch_batch_norm, "after").apply()
    assert all(layer.bias is not None for layer in model if isinstance(layer, nn.Linear))

    for norm in ("layer", "group"):
        model = mlp()
        insert(model, norm, "before").apply()
        assert all(layer.bias is not None for layer in model if isinstance(layer, nn.Linear))


def test_the_removed_bias_was_redundant():
    model = mlp()
    x = torch.randn(32, 4)
    with_bias = nn.Sequential(
        model[0], nn.BatchNorm1d(8), nn.ReLU(), model[2], nn.BatchNorm1d(8), nn.ReLU(), model[4]
    )
    expected = with_bias(x)
    insert(model, torch_batch_norm, "before").apply()
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_a_bias_before_dropout_stays():
    model = cnn()
    insert(model, torch_batch_norm, "before").apply()
    first, second = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    assert first.bias is None
    assert second.bias is not None  # dropout sets a channel to zero, not to its bias


def test_identity_between_does_not_save_the_bias():
    model = nn.Sequential(nn.Linear(4, 8), nn.Identity(), nn.ReLU(), nn.Linear(8, 2))
    insert(model, torch_batch_norm).apply()
    assert model[0].bias is None


def test_insert_in_a_nested_convolutional_net():
    model = cnn()
    keys = list(model.state_dict())
    plan = insert(model, "group", "after")
    plan.apply()
    assert kinds(model) == [
        "Conv2d", "ReLU", "GroupNorm", "MaxPool2d", "Conv2d", "Dropout2d", "SiLU", "GroupNorm",
        "AdaptiveAvgPool2d", "Flatten", "Linear",
    ]  # fmt: skip
    assert model(torch.randn(5, 1, 8, 8)).shape == (5, 3)
    assert not plan.renamed
    new = {"0.1_norm.weight", "0.1_norm.bias", "1.2_norm.weight", "1.2_norm.bias"}
    assert set(model.state_dict()) == {*keys, *new}
    assert all(any(key.rpartition(".")[0] in change.after for change in plan.changes) for key in new)


@pytest.mark.parametrize(
    ("norm", "linear", "convolution"),
    [("layer", nn.LayerNorm((8,)), nn.GroupNorm(1, 4)), ("group", nn.GroupNorm(4, 8), nn.GroupNorm(2, 4))],
)
def test_layer_and_group_norm_fit_their_producer(norm, linear, convolution):
    assert repr(insert(mlp(), norm).apply()[1]) == repr(linear)
    assert repr(insert(cnn(), norm).apply()[0][1]) == repr(convolution)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(3, 6, 3), (4, 3, 9)),
        (nn.Conv2d(3, 6, 3), (4, 3, 5, 5)),
        (nn.Conv3d(3, 6, 3), (4, 3, 5, 5, 5)),
        (nn.ConvTranspose2d(3, 6, 3), (4, 3, 5, 5)),
    ],
)
def test_channels_come_from_any_convolution(layer, shape):
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    plan = insert(model, torch_batch_norm)
    plan.apply()
    assert model[1].num_features == 6
    assert model(torch.randn(shape)).shape == (4, 2)


def test_weights_modes_dtypes_and_gradients_flags_stay():
    model = mlp().double().eval()
    model[2].weight.requires_grad_(False)
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    values = [weight.clone() for weight in weights]
    insert(model, torch_batch_norm).apply()
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert all(layer.weight is weight for layer, weight in zip(linear, weights, strict=True))
    assert all(torch.equal(weight, value) for weight, value in zip(weights, values, strict=True))
    assert [weight.requires_grad for weight in weights] == [True, False, True]
    assert not model[1].training
    assert model[1].weight.dtype == torch.float64


def test_hooks_of_kept_layers_stay():
    model = mlp()
    seen = []
    model[2].register_forward_hook(lambda *_: seen.append("second"))
    insert(model, "layer").apply()
    model(torch.randn(4, 4))
    assert seen == ["second"]


def test_no_random_number_is_drawn():
    model = mlp()
    before = torch.get_rng_state()
    insert(model, lambda n, _: nn.Sequential(nn.Linear(n, n), nn.LayerNorm(n))).apply()
    strip(model).apply()
    swap_activation(model, "tanh").apply()
    assert torch.equal(torch.get_rng_state(), before)


def test_meta_device_is_kept():
    with torch.device("meta"):
        model = mlp()
    insert(model, torch_batch_norm).apply()
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_an_activation_at_the_end_gets_no_norm():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
    plan = insert(model, "layer")
    assert [change.path for change in plan.changes] == ["1"]
    assert [(remark.path, remark.reason) for remark in plan.kept] == [
        ("3", "Sigmoid is the network's output")
    ]


def test_a_relu_used_twice_in_a_sequential_is_two_places():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 8), relu, nn.Linear(8, 8), relu, nn.Linear(8, 2))
    insert(model, "layer").apply()
    assert kinds(model).count("LayerNorm") == 2


def test_named_children_keep_their_names():
    model = nn.Sequential()
    model.add_module("lin", nn.Linear(4, 8))
    model.add_module("act_norm", nn.Identity())
    model.add_module("act", nn.ReLU())
    model.add_module("head", nn.Linear(8, 2))
    plan = insert(model, "layer")
    plan.apply()
    assert [name for name, _ in model.named_children()] == ["lin", "act_norm", "act", "head"]
    assert type(model.act_norm) is nn.LayerNorm  # the identity's place was free
    assert not plan.renamed


@pytest.mark.parametrize(
    ("model", "path", "words"),
    [
        (nn.Sequential(nn.LazyLinear(8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)), "2", "is before it already"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.ReLU(), nn.Linear(8, 2)), "2", "number of channels"),
        (nn.Sequential(nn.ReLU(), nn.Linear(8, 2)), "0", "number of channels"),
    ],
    ids=["normed already", "flattened", "no producer"],
)  # fmt: skip
def test_insert_refuses_with_the_reason(model, path, words):
    keys = list(model.state_dict())
    plan = insert(model, "layer")
    assert [refusal.path for refusal in plan.refusals if words in refusal.reason] == [path]
    with pytest.raises(SurgeryError, match=words):
        plan.apply()
    assert list(model.state_dict()) == keys


def test_a_layer_used_twice_keeps_the_bias_that_is_redundant_in_one_place():
    shared = nn.Linear(8, 8)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), shared, nn.Tanh(), shared, nn.Linear(8, 2))
    insert(model, torch_batch_norm).apply()
    assert model[0].bias is None
    assert shared.bias is not None


def test_insert_refuses_a_sequential_used_twice():
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    plan = insert(nn.Sequential(block, block, nn.Linear(4, 2)), "layer")
    assert [refusal.path for refusal in plan.refusals] == ["0.1"]
    assert "called more than once" in plan.refusals[0].reason


def test_a_tied_bias_stays():
    model = mlp()
    model[2].bias = model[0].bias
    plan = insert(model, torch_batch_norm)
    plan.apply()
    assert model[0].bias is model[3].bias
    assert model[0].bias is not None
    assert {"0.bias", "2.bias"} <= {remark.path for remark in plan.kept}


def test_parametrized_layers_are_followed():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2))
    insert(model, torch_batch_norm).apply()
    assert model(torch.randn(6, 4)).shape == (6, 2)
    assert model[0].bias is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: insert(m, "bath"), "norm must be one of batch, renorm, layer, group"),
        (lambda m: insert(m, "layer", "beside"), "'before' or 'after'"),
        (lambda m: insert(m, torch_batch_norm, eps=1e-3), "options go with a norm's name"),
    ],
)
def test_wrong_arguments(call, words):
    with pytest.raises(InputError, match=words):
        call(mlp())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: insert(nn.Linear(2, 2), "layer"), "found no activation in Linear: looked for nn.ReLU"),
        (lambda: insert(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()), "layer"), "found no activation"),
        (lambda: insert(mlp(), "layer", epsilon=1), "cannot make norm 'layer'"),
        (lambda: insert(mlp(), lambda n, p: None), "must make an nn.Module, got NoneType"),
    ],
)  # fmt: skip
def test_impossible_operations(call, words):
    with pytest.raises(SurgeryError, match=words):
        call()


def test_a_callable_that_returns_one_module_twice_is_refused():
    norm = nn.LayerNorm(8)
    with pytest.raises(SurgeryError, match="a new module at each call"):
        insert(mlp(), lambda n, p: norm)


def test_options_reach_the_layer():
    model = mlp()
    insert(model, "group", num_groups=2, eps=0.5).apply()
    assert (model[1].num_groups, model[1].eps) == (2, 0.5)


@pytest.mark.parametrize("network", [mlp, cnn])
@pytest.mark.parametrize(
    ("norm", "options", "kind"),
    [
        ("batch", {}, "BatchNorm"),
        ("batch", {"ghost_batch_size": 8, "momentum": 0.2}, "BatchNorm"),
        ("renorm", {"total_steps": 100}, "BatchRenorm"),
        ("renorm", {"total_steps": 100, "ghost_batch_size": 8}, "BatchRenorm"),
    ],
)
def test_batch_norm_and_renorm_by_name_are_normsmiths(network, norm, options, kind):
    model = network()
    dimensions = 1 if network is mlp else 2
    insert(model, norm, **options).apply()
    norms = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    assert {type(layer).__name__ for layer in norms} == {f"{kind}{dimensions}d"}
    assert all(type(layer).__module__.startswith("normsmith.layers") for layer in norms)
    first = next(layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d)))
    assert first.bias is None
    shape = (16, 4) if network is mlp else (16, 1, 8, 8)
    model(torch.randn(shape)).sum().backward()
    assert all(layer.num_batches_tracked == 1 for layer in norms)
    assert not strip(model).refusals
    strip(model).apply()
    assert kinds(model) == kinds(network())


def test_an_option_that_the_layer_does_not_take_is_named():
    with pytest.raises(SurgeryError, match="cannot make norm 'batch' for Linear"):
        insert(mlp(), "batch", ghosts=3)


def test_an_inserted_norm_is_folded_and_converted_like_any_other():
    model, batch = mlp(), torch.randn(5, 7, 4)
    insert(model, "batch", batch=batch).apply()
    model.train()(batch)
    expected = model.eval()(batch)
    convert(model, "renorm", total_steps=5).apply()
    assert {e.name for e in trace(model, batch).having("norm")} == {"BatchRenorm1d"}
    plan = fold(model, batch)
    plan.verify(batch)
    plan.apply(partial=True)
    torch.testing.assert_close(model(batch), expected, rtol=1e-4, atol=1e-5)


def test_what_strip_has_emptied_is_filled_again():
    network = REAL["hf-resnet"]
    model, batch = network.model(), network.batch()
    keys = set(model.state_dict())
    strip(model, batch=batch).apply()
    insert(model, "batch", batch=batch).apply()
    assert set(model.state_dict()) == keys


def test_only_selects_activations():
    plan = insert(cnn(), "layer", only="1.*")
    assert [change.path for change in plan.changes] == ["1.2"]


BARE = {
    name: Network(lambda n=network: strip(n.model(), batch=n.batch()).apply(), network.batch, network.why)
    for name, network in {**REAL, **{name: HARD[name] for name in ("functional", "tied", "double")}}.items()
}
BARE["by functions"] = Network(Residual, images(8, 1), "norms attached to layers")


@pytest.mark.parametrize("name", REAL)
def test_real_networks(name):
    model, batch = BARE[name].model(), BARE[name].batch()
    keys = set(model.state_dict())
    for where in ("before", "after"):
        plan = insert(model, "batch", where, batch=batch)
        assert not plan.refusals
        assert not plan.verify(batch).unreached
        plan.apply()
        norms = {path for path, m in model.named_modules() if type(m).__name__.startswith("BatchNorm")}
        assert keys - set(model.state_dict()) == {c.path for c in plan.changes if c.after == "no bias"}
        assert {key.rpartition(".")[0] for key in set(model.state_dict()) - keys} == norms
        assert all(any(path in (c.path, *c.after.split()) for c in plan.changes) for path in norms)
        plan.revert()


class InsertContract(SurgeryContract):
    where = "before"

    def plan(self, model: nn.Module) -> Plan:
        return insert(model, "batch", self.where, batch=self.batch)


class TestBefore(InsertContract):
    @pytest.fixture(params=["hf-resnet", "functional", "tied", "double", "by functions"])
    def network(self, request):
        return BARE[request.param]


class TestAfter(InsertContract):
    where = "after"
    partial = True

    @pytest.fixture(params=["hf-levit", "monai-densenet", "by functions"])
    def network(self, request):
        return BARE[request.param]
