"""Strip, insert and swap in nn.Sequential: structure, numbers, and everything that must stay."""

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normsmith.errors import InputError, SurgeryError
from normsmith.surgery import insert, strip, swap_activation


def torch_batch_norm(features, producer):
    kinds = {nn.Linear: nn.BatchNorm1d, nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d}
    kinds |= {nn.Conv3d: nn.BatchNorm3d, nn.ConvTranspose2d: nn.BatchNorm2d}
    return next(kind for layer, kind in kinds.items() if isinstance(producer, layer))(features)


def mlp(activation=nn.ReLU):
    return nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 3))


def cnn():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Dropout2d(0.1), nn.SiLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def kinds(model):
    return [type(child).__name__ for child in model.modules() if not isinstance(child, nn.Sequential)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("before", ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]),
        ("after", ["Linear", "ReLU", "BatchNorm1d", "Linear", "ReLU", "BatchNorm1d", "Linear"]),
    ],
)
def test_insert_puts_a_norm_at_each_activation_and_none_behind_the_logits(where, expected):
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


def test_a_bias_behind_which_dropout_lies_stays():
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
    plan = insert(model, "group", "after")
    plan.apply()
    assert kinds(model) == [
        "Conv2d", "ReLU", "GroupNorm", "MaxPool2d", "Conv2d", "Dropout2d", "SiLU", "GroupNorm",
        "AdaptiveAvgPool2d", "Flatten", "Linear",
    ]  # fmt: skip
    assert model(torch.randn(5, 1, 8, 8)).shape == (5, 3)
    assert plan.renamed == {"0.2": "0.3"}


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


@settings(max_examples=30, deadline=None)
@given(
    widths=st.lists(st.integers(2, 9), min_size=2, max_size=4),
    where=st.sampled_from(["before", "after"]),
    norm=st.sampled_from(["layer", "group", torch_batch_norm]),
)
def test_strip_undoes_insert_up_to_the_redundant_bias(widths, where, norm):
    layers = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], 2))
    original = copy.deepcopy(model)
    inserted = insert(model, norm, where)
    inserted.apply()
    strip(model).apply()
    assert kinds(model) == kinds(original)
    removed = {change.path for change in inserted.changes if change.path.endswith(".bias")}
    for name, value in original.state_dict().items():
        expected = torch.zeros_like(value) if name in removed else value
        assert torch.equal(model.state_dict()[name], expected), name


def test_strip_gives_back_the_bias_that_the_norm_had():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), nn.ReLU(),
        nn.Conv2d(4, 4, 3, bias=False), nn.ReLU(), nn.BatchNorm2d(4),
    ).double()  # fmt: skip
    model[0].weight.requires_grad_(False)
    plan = strip(model)
    plan.apply()
    first, second, third = (layer for layer in model if isinstance(layer, nn.Conv2d))
    assert torch.equal(first.bias, torch.zeros(4, dtype=torch.float64))
    assert not first.bias.requires_grad
    assert second.bias is None  # its norm had none either
    assert third.bias is None  # the norm is behind the activation
    assert kinds(model) == ["Conv2d", "ReLU"] * 3
    assert plan.renamed == {"2": "1", "3": "2", "5": "3", "6": "4", "7": "5"}


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(8), nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.RMSNorm(8), nn.SyncBatchNorm(8)]
)
def test_strip_takes_every_kind_of_norm(norm):
    model = nn.Sequential(nn.Linear(4, 8), norm, nn.ReLU())
    strip(model).apply()
    assert kinds(model) == ["Linear", "ReLU"]


def test_strip_of_a_model_without_norms_is_an_empty_plan():
    model = mlp()
    plan = strip(model)
    assert not plan.changes
    assert not plan.refusals
    assert plan.apply() is model


def test_strip_refuses_a_norm_that_does_more():
    class NormAct(nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x).relu()

    plan = strip(nn.Sequential(nn.Linear(4, 8), NormAct(8), nn.Linear(8, 2)))
    assert [(refusal.path, "forward of its own" in refusal.reason) for refusal in plan.refusals] == [
        ("1", True)
    ]


@pytest.mark.parametrize(("name", "kind"), [("relu", nn.ReLU), ("tanh", nn.Tanh), ("sigmoid", nn.Sigmoid)])
def test_swap_changes_hidden_activations_only(name, kind):
    model = nn.Sequential(*mlp(nn.GELU), nn.Sigmoid())
    plan = swap_activation(model, name)
    plan.apply()
    assert type(model[1]) is kind
    assert type(model[3]) is kind
    assert type(model[5]) is nn.Sigmoid
    assert [remark.path for remark in plan.kept] == ["5"]


def test_swap_to_the_same_keeps_the_module():
    model = mlp()
    first = model[1]
    swap_activation(model, "relu").apply()
    assert model[1] is first


def test_swap_refuses_to_lose_hooks():
    model = mlp()
    model[1].register_forward_hook(lambda *_: None)
    plan = swap_activation(model, "tanh")
    with pytest.raises(SurgeryError, match="1: ReLU has hooks"):
        plan.apply()
    assert type(model[3]) is nn.ReLU


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
    assert [name for name, _ in model.named_children()] == ["lin", "act_norm", "act_norm2", "act", "head"]
    assert not plan.renamed


@pytest.mark.parametrize(
    ("model", "path", "words"),
    [
        (nn.Sequential(nn.LazyLinear(8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)), "2", "is before it already"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.ReLU(), nn.Linear(8, 2)), "2", "number of channels"),
        (nn.Sequential(nn.ReLU(), nn.Linear(8, 2)), "0", "number of channels"),
        (nn.Sequential(nn.TransformerEncoderLayer(8, 2), nn.Linear(8, 2)), "0", "inside TransformerEncoderLayer"),
    ],
    ids=["normed already", "flattened", "no producer", "torch composite"],
)  # fmt: skip
def test_insert_refuses_with_the_reason(model, path, words):
    keys = list(model.state_dict())
    plan = insert(model, "layer")
    assert [refusal.path for refusal in plan.refusals if words in refusal.reason] == [path]
    with pytest.raises(SurgeryError, match=words):
        plan.apply()
    assert list(model.state_dict()) == keys


def test_insert_refuses_a_layer_used_twice_whose_bias_would_go():
    shared = nn.Linear(8, 8)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), shared, nn.Tanh(), shared, nn.Linear(8, 2))
    plan = insert(model, torch_batch_norm)
    assert [refusal.path for refusal in plan.refusals] == ["2"]


def test_insert_refuses_a_sequential_used_twice():
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    plan = insert(nn.Sequential(block, block, nn.Linear(4, 2)), "layer")
    assert {refusal.path for refusal in plan.refusals} == {"0.1", "1.1"}
    assert all("several places" in refusal.reason for refusal in plan.refusals)


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
        (lambda m: insert(m, "layer", "behind"), "'before' or 'after'"),
        (lambda m: insert(m, torch_batch_norm, eps=1e-3), "options go with a norm's name"),
        (lambda m: swap_activation(m, "gelu"), "one of relu, tanh, sigmoid"),
    ],
)
def test_wrong_arguments(call, words):
    with pytest.raises(InputError, match=words):
        call(mlp())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: insert(nn.Linear(2, 2), "layer"), "found no activation in Linear: looked for modules such as nn.ReLU"),
        (lambda: insert(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()), "layer"), "found no activation"),
        (lambda: swap_activation(nn.Sequential(nn.Linear(2, 2)), "relu"), "found no activation"),
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
