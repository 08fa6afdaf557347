"""Initial weights of arms: good ones by activation or by data, pretrained ones left, gains on hidden layers alone."""

import pytest
import torch
from tests.studies.tiny import Unsequential, activations, linear, make, network, tanh_network
from torch import nn

from normsmith.errors import StudyError, SurgeryError
from normsmith.studies.arms import AS_IS, normalized, strip_norm
from normsmith.studies.arms import network as plain
from normsmith.studies.initial_weights import (
    activations_of,
    are_drawn,
    initialise,
    initialised,
    scale_hidden_weights,
    scaled,
    weights_of,
)
from normsmith.tasks import build


def wide(activation):
    """A network whose weights are many enough to see their variance."""
    return lambda: nn.Sequential(
        nn.Linear(6, 200), activation(), nn.Linear(200, 300), activation(), nn.Linear(300, 3)
    )


def drawn(activation, method="by activation"):
    task = make("wide", model=wide(activation))
    torch.manual_seed(0)
    return initialise(build(task, 0), task, method), task


@pytest.mark.parametrize(
    ("activation", "variance"),
    [
        (nn.ReLU, 2 / 200),
        (nn.GELU, 2 / 200),
        (nn.Tanh, 2 / 500),
        (nn.Sigmoid, 16 * 2 / 500),
    ],
)
def test_the_activations_decide_the_variance(activation, variance):
    model, _ = drawn(activation)
    assert float(model[2].weight.detach().var()) == pytest.approx(variance, rel=0.03)
    assert not model[2].bias.any()


@pytest.mark.parametrize(("activation", "method"), [(nn.Softsign, "by activation"), (nn.ReLU, "by data")])
def test_data_decide_where_the_activations_do_not(activation, method):
    model, task = drawn(activation, method)
    x, _ = task.train.tensors
    with torch.no_grad():
        deviations = model(x).std(0)
    assert (
        (deviations > 0.7) & (deviations < 1.4)
    ).all()  # over all data; exactly 1 on the batch of the edit


class HalfPretrained(nn.Module):
    """A backbone that is the same whatever the seed, and a head that is drawn."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.backbone = nn.Linear(6, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(torch.relu(self.backbone(x)))


@pytest.mark.parametrize("method", ["by activation", "by data"])
def test_pretrained_weights_are_left(method):
    task = make("half", model=HalfPretrained)
    model = build(task, 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    initialise(model, task, method)
    assert are_drawn(task)
    assert torch.equal(model.backbone.weight, before["backbone.weight"])
    assert torch.equal(model.backbone.bias, before["backbone.bias"])
    assert not torch.equal(model.head.weight, before["head.weight"])


def test_a_network_that_is_pretrained_as_a_whole_has_nothing_to_draw():
    def fixed():
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return network()

    assert not are_drawn(make("fixed", model=fixed))
    assert are_drawn(make("drawn"))


def test_weights_that_are_drawn_are_seen_beside_pretrained_ones_of_their_shape():
    def half_fixed():
        with torch.random.fork_rng():
            torch.manual_seed(3)
            first = nn.Linear(6, 6)
        return nn.Sequential(first, nn.ReLU(), nn.Linear(6, 6))

    assert are_drawn(make("half fixed", model=half_fixed))


def test_weights_without_data_yet_are_left_to_surgery_to_refuse():
    task = make("lazy", model=lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 3)))
    assert are_drawn(task)
    with pytest.raises(SurgeryError, match="not initialised yet"):
        initialised(normalized(None)).build(build(task, 0), task)


def test_the_weights_of_an_arm_have_a_name():
    assert weights_of(AS_IS) == "own"
    assert weights_of(initialised(AS_IS)) == "by activation"
    assert weights_of(scaled(initialised(normalized(None), "by data"), 2.0)) == "by data"


def test_stripped_and_normed_arms_draw_the_same_weights():
    task = activations
    models = []
    for arm in (initialised(plain("tanh")), initialised(normalized("tanh"))):
        torch.manual_seed(5)
        models.append([p for p in arm.build(build(task, 0), task).parameters() if p.dim() == 2])
    assert all(torch.equal(a, b) for a, b in zip(*models, strict=True))


def test_the_kinds_of_a_networks_hidden_activations():
    assert activations_of(tanh_network(), make("x")) == {"tanh"}
    assert activations_of(Unsequential(), make("x")) == {"relu"}
    assert activations_of(linear(), make("x")) == set()


def changed(model, task, gain):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    scale_hidden_weights(model, task, gain)
    after = dict(model.named_parameters())
    scaled_ = {name for name in after if torch.equal(after[name], before[name] * gain) and after[name].any()}
    assert all(torch.equal(after[name], before[name]) for name in after if name not in scaled_)
    return scaled_


def test_a_gain_scales_the_matrices_of_hidden_layers_and_nothing_else():
    task = make("scale")
    assert changed(network(), task, 4.0) == {"0.weight", "2.weight"}
    assert changed(strip_norm(Unsequential(), task), task, 0.5) == {"first.weight"}
    normed = normalized(None).build(network(), task)
    assert all(name.endswith("weight") for name in changed(normed, task, 4.0))
    assert len(changed(normed, task, 4.0)) == 2


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.rnn(x.reshape(-1, 2, 3))[0][:, -1])


def test_a_recurrent_layer_is_a_hidden_one():
    task = make("recurrent", model=Recurrent)
    weights = {"rnn.weight_ih_l0", "rnn.weight_hh_l0"}
    assert changed(Recurrent(), task, 2.0) == weights
    normed = normalized(None, where="after").build(Recurrent(), task)  # a trace looks inside the layer then
    assert changed(normed, task, 2.0) == weights


def test_a_network_without_hidden_layers_is_refused():
    with pytest.raises(StudyError, match="hidden layers"):
        scale_hidden_weights(linear(), make("flat", model=linear), 2.0)


def test_a_gain_of_one_is_the_arm_itself():
    assert scaled(AS_IS, 1.0) is AS_IS
    assert scaled(AS_IS, 2.0).name == "as is, gain 2"
