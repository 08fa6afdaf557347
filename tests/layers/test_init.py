"""Initial weights: the variances of the papers, what is drawn and what is left, and signals of one size."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normsmith import layers
from normsmith.errors import InputError
from normsmith.layers import init

LAYERS = {
    "linear": (lambda: nn.Linear(400, 300), 400, 300),
    "convolution": (lambda: nn.Conv2d(40, 80, 3), 40 * 9, 80 * 9),
    "grouped": (lambda: nn.Conv1d(80, 160, 5, groups=4), 20 * 5, 40 * 5),
    "transposed": (lambda: nn.ConvTranspose2d(40, 80, 3), 40 * 9, 80 * 9),
    "transposed, grouped": (lambda: nn.ConvTranspose2d(80, 160, 3, groups=4), 20 * 9, 40 * 9),
}


@pytest.mark.parametrize(("make", "fan_in", "fan_out"), LAYERS.values(), ids=LAYERS)
def test_the_variances_are_those_of_the_papers(make, fan_in, fan_out):
    torch.manual_seed(0)
    layer = make()
    assert init.he_(layer) == ("",)
    assert float(layer.weight.detach().var()) == pytest.approx(2 / fan_in, rel=0.05)
    assert not layer.bias.any()
    assert init.xavier_(layer, gain=4.0) == ("",)
    assert float(layer.weight.detach().var()) == pytest.approx(16 * 2 / (fan_in + fan_out), rel=0.05)
    assert float(layer.weight.detach().abs().max()) <= 4 * (6 / (fan_in + fan_out)) ** 0.5


def test_a_transposed_convolution_keeps_the_size_of_a_signal_when_drawn_by_he():
    torch.manual_seed(0)
    layer = nn.ConvTranspose1d(256, 64, 1)
    init.he_(layer)
    x = torch.randn(64, 256, 4).relu() * 2**0.5  # second moment 1
    assert float(layer(x).detach().var()) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize(
    "draw", [init.he_, init.xavier_, lambda model, **more: init.unit_variance_(model, run, **more)]
)
def test_what_is_no_layer_with_a_weight_of_its_own_is_left(draw):
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(4, 3),
            "lstm": nn.LSTM(3, 4),
            "norm": nn.BatchNorm1d(3),
            "lazy": nn.LazyLinear(2),
            "parametrized": nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
            "left": nn.Linear(3, 2),
            "drawn": nn.Linear(3, 2, bias=False),
        }
    )
    before = {k: v.clone() for k, v in model.state_dict().items() if not nn.parameter.is_lazy(v)}
    assert draw(model, only=lambda path, layer: path != "left") == ("drawn",)
    after = model.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["drawn.weight"]


def run(model):
    """No layer is called."""


def test_a_shared_weight_is_drawn_once_and_both_layers_are_named():
    torch.manual_seed(0)
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    torch.manual_seed(1)
    assert init.he_(nn.Sequential(first, second)) == ("0", "1")
    torch.manual_seed(1)
    alone = nn.Linear(8, 8)
    init.he_(alone)  # draws bias and weight of its own first
    torch.manual_seed(1)
    init.he_(first)
    assert first.weight is second.weight


@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan")])
def test_a_gain_that_is_none_is_refused(gain):
    with pytest.raises(InputError, match="gain above zero"):
        init.xavier_(nn.Linear(2, 2), gain)


class Branching(nn.Module):
    """Convolutions, a residual sum, a layer that is called twice, a functional activation, dropout and a norm."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = layers.BatchNorm2d(16)
        self.dropout = nn.Dropout(0.9)
        self.head = nn.Linear(16, 5)
        self.unused = nn.Linear(7, 7)

    def forward(self, x):
        h = torch.sigmoid(self.norm(self.first(x)))
        h = h + self.twice(h)
        return self.head(self.dropout(self.twice(F.gelu(h))).mean((2, 3)))


def test_each_channel_is_standardised_where_a_layer_is_first_called():
    torch.manual_seed(0)
    model, x = Branching(), torch.randn(32, 3, 8, 8) * 1000 + 50
    modes = [module.training for module in model.modules()]
    assert init.unit_variance_(model, lambda model: model(x)) == ("first", "twice", "head", "unused")
    assert [module.training for module in model.modules()] == modes
    assert int(model.norm.num_batches_tracked) == 0
    firsts = {}

    def look(module, inputs, output):
        firsts.setdefault(module, output.detach().movedim(1, 0).flatten(1))

    for layer in (model.first, model.twice, model.head):
        layer.register_forward_hook(look)
    model.eval()
    model(x)
    for values in firsts.values():
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)), atol=1e-4, rtol=0)
        torch.testing.assert_close(values.var(1, correction=0), torch.ones(len(values)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layer", [nn.Conv1d, nn.ConvTranspose1d])
def test_the_scales_of_channels_reach_the_weights_that_make_them(layer, groups):
    torch.manual_seed(0)
    model, x = (
        layer(4, 6, 3, groups=groups),
        torch.randn(50, 4, 9) * torch.tensor([1.0, 5.0, 0.1, 30.0])[:, None],
    )
    init.unit_variance_(model, lambda model: model(x))
    values = model(x).detach().movedim(1, 0).flatten(1)
    torch.testing.assert_close(values.var(1, correction=0), torch.ones(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.mean(1), torch.zeros(6), atol=1e-4, rtol=0)


def test_a_shared_weight_is_scaled_at_its_first_layer_alone_and_a_mean_stays_without_a_bias():
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(5, 5, bias=False), nn.ReLU(), nn.Linear(5, 5, bias=False)),
        torch.randn(64, 5) + 3,
    )
    model[2].weight = model[0].weight
    init.unit_variance_(model, lambda model: model(x))
    first = model[0](x).detach()
    torch.testing.assert_close(first.var(0, correction=0), torch.ones(5), atol=1e-4, rtol=0)
    assert first.mean(0).abs().max() > 0.1


def test_a_deep_sigmoid_network_keeps_its_signal_by_unit_variance_and_loses_it_by_torchs_own_weights():
    def deep():
        torch.manual_seed(0)
        return nn.Sequential(*(part for _ in range(20) for part in (nn.Linear(64, 64), nn.Sigmoid())))

    x = torch.randn(256, 64)
    own, good = deep(), deep()
    init.unit_variance_(good, lambda model: model(x))
    between_samples = [float(model(x).detach().std(0).mean()) for model in (own, good)]
    assert between_samples[0] < 1e-6
    assert between_samples[1] > 0.02


def test_a_layer_whose_output_does_not_vary_keeps_finite_weights():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    init.unit_variance_(model, lambda model: model(torch.zeros(8, 3)))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_run_that_raises_leaves_modes_statistics_and_no_hook():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

    def failing(model):
        model.train()(torch.randn(8, 3))
        raise RuntimeError("the loader is out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        init.unit_variance_(model, failing)
    assert model.training
    assert int(model[1].num_batches_tracked) == 0
    assert not model[0]._forward_hooks
