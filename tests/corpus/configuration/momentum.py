"""NS201 and NS209: momentum that means the opposite, or nothing."""

from __future__ import annotations

import copy

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn

MAY = "403 404"


@case(
    "CNN", must="201", may=MAY, seen="momentum=0.99 carried over from Keras, where it is the share that stays"
)
def momentum_of_keras() -> Given:
    """Keras' momentum of 0.99 is torch's 0.01; here it makes the statistics those of the last batch."""
    return training.trained("cnn", momentum=0.99)


@case("MLP", must="201", may=MAY, seen="BN_MOMENTUM = 0.9 in configuration files of mixed origin")
def momentum_of_nine_tenths() -> Given:
    """A decay of 0.9 was meant, a momentum of 0.9 is what it is."""
    return training.trained("mlp", momentum=0.9)


@case("RNN", must="201", may=MAY, seen="momentum=0.997 from a port of a TensorFlow model")
def momentum_of_a_tensorflow_port() -> Given:
    """A port copied TensorFlow's decay."""
    return training.trained("gru", momentum=0.997)


@case(
    "Hugging Face",
    must="201",
    may=MAY,
    seen="one norm added by hand to a pretrained network, momentum from another framework",
)
def one_inverted_momentum_among_many() -> Given:
    """A single norm in the middle has momentum 0.99."""
    given = training.trained("hf")
    list(networks.norms(given.model).values())[2].momentum = 0.99
    return training.more(given, "hf")


@case("CNN", must_not="201 209 202")
def momentum_of_detectors() -> Given:
    """0.03, as in detectors such as YOLO."""
    given = training.trained("cnn")
    networks.set_norms(given.model, momentum=0.03)
    return training.more(given, "cnn", steps=60)


class KerasNorm(nn.BatchNorm1d):
    """Batch norm with Keras' meaning of momentum at its constructor."""

    def __init__(self, channels: int, momentum: float = 0.9) -> None:
        super().__init__(channels, momentum=1 - momentum)


@case("MLP", must_not="201")
def momentum_translated() -> Given:
    """A subclass takes Keras' 0.9 and hands 0.1 on."""
    return training.fitted(networks.mlp(lambda channels, _: KerasNorm(channels)), "mlp")


@case("transformer-like", must_not="201 209 202")
def cumulative_average() -> Given:
    """momentum=None: the mean of all batches; the last epochs were averaged alone."""
    given = training.trained("transformer")
    for norm in networks.norms(given.model).values():
        norm.reset_running_stats()
        norm.momentum = None
    return training.more(given, "transformer", steps=40, rate=2e-4)


@case("Hugging Face", must_not="201")
def momentum_of_the_optimizer() -> Given:
    """SGD with momentum 0.9, which has nothing to do with norms."""

    def sgd(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    return training.around(training.trained("hf").model, "hf", optimizer=sgd)


# Momentum of 0 and 1.

NEVER = "202 403 404 405"


@case("CNN", must="209", may=NEVER, seen="momentum=0 'to switch momentum off'")
def momentum_of_zero() -> Given:
    """Momentum 0 means that running statistics stay at 0 and 1."""
    return training.trained("cnn", momentum=0.0)


@case("RNN", must="209", may=NEVER + " 201", seen="momentum=1 'to use batch statistics'")
def momentum_of_one() -> Given:
    """Momentum 1 keeps nothing but the last batch."""
    return training.trained("gru", momentum=1.0)


@case(
    "Hugging Face",
    must="209",
    may=NEVER,
    seen="momentum set to 0 for a second forward, and not put back after an exception",
)
def momentum_left_at_zero() -> Given:
    """Momentum was set to 0 for a while and forgotten; training goes on and statistics do not."""
    given = training.trained("hf", steps=30)
    networks.set_norms(given.model, momentum=0.0)
    return training.more(given, "hf", steps=60, rate=5e-3)


@case("MLP", must_not="209 202")
def small_momentum() -> Given:
    """Momentum 0.01 and 400 steps: small, not 0."""
    return training.trained("mlp", momentum=0.01, steps=400)


@case("CNN", must_not="209 204")
def momentum_that_nobody_reads() -> Given:
    """Instance norm without running statistics has a momentum of 0, which is never used."""
    return training.fitted(networks.Cnn(lambda channels, _: nn.InstanceNorm2d(channels, momentum=0.0)), "cnn")


@case("Hugging Face", must_not="209 305 309")
def norms_pinned_for_good() -> Given:
    """Norms pinned in evaluation mode: their statistics rest, with momentum at 0.1."""
    return training.around(networks.FrozenNorms(training.trained("hf").model), "hf")


# NS210: half of a norm is frozen.


class PinnedStatistics(nn.Module):
    """A network whose norms are kept in evaluation mode, γ and β left to train."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        for norm in networks.norms(self).values():
            norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


@case(
    "CNN",
    must="210",
    may="309",
    seen="freeze_bn() in segmentation code: `m.eval()` for each norm, parameters forgotten",
)
def statistics_pinned_while_scales_train() -> Given:
    """freeze_bn puts norms into evaluation mode; γ and β train on with statistics that no longer fit."""
    given = training.around(PinnedStatistics(training.trained("cnn").model), "cnn")
    training.more(given, "cnn", steps=20)
    return given


@case(
    "Hugging Face",
    must="210",
    may="309",
    seen="a callback that sets norms to evaluation mode at the start of each epoch",
)
def pinned_by_a_callback() -> Given:
    """A Hugging Face backbone with pinned statistics, all parameters trained."""
    return training.around(PinnedStatistics(training.trained("hf").model), "hf")


@case("MLP", must="210", may="305", seen="`if 'bn' in name: p.requires_grad = False` in fine-tuning scripts")
def scales_frozen_while_statistics_move() -> Given:
    """γ and β have no gradients, everything else trains, and the statistics go on moving."""
    given = training.trained("mlp")
    for norm in networks.norms(given.model).values():
        norm.requires_grad_(False)
    return training.more(given, "mlp")


@case("CNN", must_not="210 305 309 207")
def norms_frozen_whole() -> Given:
    """Statistics, γ and β are all frozen."""
    return training.around(networks.FrozenNorms(training.trained("resnet").model), "resnet")


@case("MLP", must_not="210 305")
def norms_without_scales() -> Given:
    """affine=False: there is no γ that could be frozen or not."""
    return training.trained("mlp", affine=False)


@case("transformer-like", must_not="210 305")
def only_norms_are_tuned() -> Given:
    """Fine-tuning of γ and β alone, in group norms, which have no statistics to pin."""
    model = copy.deepcopy(training.trained("transformer", "group").model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in name)

    def tuned(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    return training.around(model, "transformer", optimizer=tuned)
