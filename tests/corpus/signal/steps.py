"""NS504, NS505, NS506: gradients, updates and shifts of a wrong size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.optim import Optimizer

MAY = "107 202 403 404 501 502 503 504 505 506"


def may(*but: str) -> str:
    """What else may fire, without the codes that must."""
    return " ".join(code for code in MAY.split() if code not in but)


# Gradients.


def stack(activation: type[nn.Module], depth: int = 8, norm: bool = False) -> nn.Sequential:
    """Linear layers of width 48 with an activation each."""
    layers: list[nn.Module] = [nn.Linear(64, 48), activation()]
    for _ in range(depth - 1):
        layers += [nn.Linear(48, 48), *([nn.BatchNorm1d(48)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(48, 10))


@case("MLP", must="504", may=may("504"), seen="deep sigmoid networks: the first layers stand still")
def vanishing_through_sigmoids() -> Given:
    """Eight sigmoids in a row leave the first layer a millionth of the last one's gradient."""
    return training.around(stack(nn.Sigmoid), "mlp")


class LongRnn(nn.Module):
    """A recurrent network that reads eight rows and then waits for 60 steps."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.rnn = nn.RNN(32, 32, batch_first=True)
        self.head = nn.Linear(32, 10)
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(scale * torch.linalg.qr(torch.randn(32, 32)).Q)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.embed(x), x.new_zeros(len(x), 60, 32)), 1)
        return self.head(self.rnn(x)[0][:, -1])


@case(
    "RNN",
    must="504",
    may=may("504"),
    seen="plain recurrent networks on long sequences forget their beginning",
)
def vanishing_through_time() -> Given:
    """Recurrent weights of half a unit of gain: 60 steps later nothing of the input is left."""
    return training.around(LongRnn(0.5), "gru")


class SmallBranches(nn.Sequential):
    """Convolutions with weights that shrink what goes back."""

    def __init__(self, deviation: float) -> None:
        layers: list[nn.Module] = [nn.Conv2d(1, 12, 3, padding=1)]
        for _ in range(7):
            layers += [nn.Tanh(), nn.Conv2d(12, 12, 3, padding=1)]
        super().__init__(*layers, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=deviation)


@case(
    "CNN",
    must="504",
    may=may("504"),
    seen="deep convolutional networks with small weights before norms were usual",
)
def vanishing_through_convolutions() -> Given:
    """Eight convolutions with weights of 0.02."""
    return training.around(SmallBranches(0.02), "cnn")


@case("MLP", must_not="504")
def gradients_kept_by_norms() -> Given:
    """Eight layers with batch norms, trained for a while."""
    return training.fitted(stack(nn.ReLU, norm=True), "mlp", steps=80)


@case("CNN", must_not="504")
def gradients_kept_by_skips() -> Given:
    """A residual network, trained."""
    return training.trained("resnet")


@case("Hugging Face", must_not="504 505")
def gradients_small_because_it_is_done() -> Given:
    """A network that has learned its data: gradients are small everywhere, as they should be."""
    return training.trained("hf")


@case("RNN", must_not="504")
def gradients_kept_by_gates() -> Given:
    """A GRU over eight steps."""
    return training.trained("gru", "group")


# Updates.


def sgd(rate: float) -> Callable[[nn.Module], Optimizer]:
    """Plain SGD."""
    return lambda model: torch.optim.SGD(model.parameters(), lr=rate)


def adam(rate: float) -> Callable[[nn.Module], Optimizer]:
    """Adam."""
    return lambda model: torch.optim.Adam(model.parameters(), lr=rate)


def learning(
    base: str, optimizer: Callable[[nn.Module], Optimizer], norm: str | None = None, steps: int = 20
) -> Given:
    """A base in the middle of its training, with an optimizer."""
    model = training.trained(base, norm, steps=steps).model
    return training.around(model, base, optimizer=optimizer)


@case("MLP", must="505", may=may("505"), seen="learning rates off by powers of ten: 3e-9 for 3e-4")
def rate_of_almost_nothing() -> Given:
    """Adam at 1e-9: weights move by a hundred-millionth of themselves."""
    return learning("mlp", adam(1e-9))


@case("CNN", must="505", may=may("505"), seen="SGD's learning rate given to Adam")
def rate_of_sgd_for_adam() -> Given:
    """Adam at 1: every step replaces the weights."""
    return learning("cnn", adam(1.0))


@case(
    "transformer-like",
    must="505",
    may=may("505"),
    seen="warm-up that divides by the wrong number: nothing moves for days",
)
def rate_of_a_warmup_that_never_ends() -> Given:
    """A transformer with SGD at 1e-8."""
    return learning("transformer", sgd(1e-8), "group")


@case("CNN", must_not="505")
def rate_that_fits() -> Given:
    """Adam at 1e-3 in the middle of training."""
    return learning("cnn", adam(1e-3), steps=40)


def branches_of_zero(model: networks.ResNet) -> networks.ResNet:
    """γ of each block's last norm is 0."""
    for block in model.blocks:
        nn.init.zeros_(block.bn2.weight)
    return model


@case("CNN", must_not="505")
def weights_of_zero_move() -> Given:
    """γ that begins at 0 grows by any ratio one likes: nothing is wrong with it."""
    model = branches_of_zero(networks.ResNet())
    with torch.no_grad():
        for x, _ in training.data.batches(training.samples("resnet")[0]) * 3:
            model(x)
    return training.around(model, "resnet")


@case("Hugging Face", must_not="505 207")
def frozen_weights_do_not_move() -> Given:
    """A frozen backbone does not move, and its head does."""
    model = training.trained("hf").model.requires_grad_(False)
    network = networks.FrozenNorms(model)
    model.model.classifier.requires_grad_(True)
    return training.around(
        network,
        "hf",
        optimizer=lambda m: torch.optim.Adam([p for p in m.parameters() if p.requires_grad], lr=1e-3),
    )


# Shifts of what reaches a layer.


@case(
    "MLP",
    must="506",
    may=may("506"),
    seen="training at a rate where each step changes what all later layers see",
)
def inputs_shift_from_step_to_step() -> Given:
    """SGD at a rate of 3 without norms: hidden inputs move by more than their spread at each step."""
    return learning("mlp", sgd(3.0), "none")


@case("CNN", must="506", may=may("506"), seen="Adam at 0.1 on convolutions without norms")
def maps_shift_from_step_to_step() -> Given:
    """Adam at 0.3 without norms."""
    return learning("cnn", adam(0.3), "none")


@case("RNN", must="506", may=may("506"), seen="recurrent networks that jump from loss to loss")
def states_shift_from_step_to_step() -> Given:
    """A GRU without norms, Adam at 0.3."""
    return learning("gru", adam(0.3), "none")


@case("MLP", must_not="506")
def inputs_that_rest() -> Given:
    """The same network, Adam at 1e-3."""
    return learning("mlp", adam(1e-3), "none", steps=80)


@case("CNN", must_not="506")
def maps_that_rest() -> Given:
    """Convolutions with batch norm at a usual rate."""
    return learning("cnn", sgd(0.05), steps=80)


@case("transformer-like", must_not="506 505")
def stream_that_rests() -> Given:
    """A transformer with Adam at 1e-3."""
    return learning("transformer", adam(1e-3), "group", steps=60)
