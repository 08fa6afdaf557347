"""NS308: an averaged copy whose buffers do not belong to its weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn

OF_THE_AVERAGE = "202 403 404 405"
"""The copy's statistics may be found by the rules for statistics too."""


def averaging(base: str, model: nn.Module, average: Any, steps: int = 120, since: int = 0) -> nn.Module:
    """Train a model and let the average follow it, from a step on."""
    optimizer = torch.optim.Adam(model.parameters(), lr=training.BASES[base].learning_rate)
    stream = training.epochs(training.samples(base)[0])
    for number, batch in zip(training.steps_of(steps), stream, strict=False):
        training.step(model, batch, optimizer, training.BASES[base].loss)
        if number >= since:
            average.update_parameters(model)
    optimizer.zero_grad()
    return model


def ema(base: str, network: nn.Module, *, buffers: bool) -> tuple[nn.Module, AveragedModel]:
    """A model and its exponential average, with or without averaged buffers."""

    def decay(averaged: Any, current: Any, _: Any) -> Any:
        return 0.95 * averaged + 0.05 * current

    average = AveragedModel(network, avg_fn=decay, use_buffers=buffers)
    return averaging(base, network, average), average


class Averaged:
    """An exponential average of parameters alone, as it stands in many training scripts."""

    def __init__(self, model: nn.Module, decay: float = 0.95) -> None:
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            self.shadow[name].lerp_(parameter, 1 - self.decay)


@case(
    "CNN",
    must="308",
    may=OF_THE_AVERAGE,
    seen="EMA classes with a dictionary of shadow parameters, loaded into a new model",
)
def ema_of_parameters_in_a_new_model() -> Given:
    """The shadow parameters are put into a freshly built network; its running statistics are still 0 and 1."""
    model, average = networks.Cnn(), Averaged(networks.Cnn())
    averaging("cnn", model, average)
    evaluated = networks.Cnn()
    evaluated.load_state_dict(average.shadow, strict=False)
    return training.around(model, "cnn", ema=evaluated)


@case(
    "Hugging Face",
    must="308",
    may=OF_THE_AVERAGE,
    seen="a deep copy and a loop over `zip(ema.parameters(), model.parameters())`",
)
def hand_written_ema() -> Given:
    """A deep copy made before training, and a loop over parameters after each step; nobody thinks of buffers."""
    model = networks.hf_resnet()
    copied = copy.deepcopy(model)
    average = Averaged(model)
    averaging("hf", model, average, steps=100)
    copied.load_state_dict(average.shadow, strict=False)
    return training.around(model, "hf", ema=copied)


@case(
    "RNN",
    must="308",
    may=OF_THE_AVERAGE,
    seen="SWA over snapshots of `parameters()`: 'the averaged model predicts at random'",
)
def swa_of_parameters() -> Given:
    """The mean of the parameters of 60 steps is put into a copy made before training, buffers untouched."""
    model = networks.Gru()
    evaluated = copy.deepcopy(model)
    average = AveragedModel(model)
    averaging("gru", model, average, since=60)
    evaluated.load_state_dict(dict(average.module.named_parameters()), strict=False)
    return training.around(model, "gru", ema=evaluated)


def critic() -> nn.Sequential:
    """A critic of reinforcement learning: states and actions to a value."""
    return networks.mlp(inputs=12, outputs=1)


@case(
    "MLP",
    must="308",
    may=OF_THE_AVERAGE,
    seen="actor-critic code with batch norm: polyak updates over parameters()",
)
def target_network_by_polyak() -> Given:
    """The critic's target follows its parameters alone; its buffers stay at 0 and 1."""
    generator = torch.Generator().manual_seed(7)
    x = 3 * torch.randn(1280, 12, generator=generator) + 2
    y = x.square().mean(1, keepdim=True) / 10
    model = critic()
    target = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _, batch in zip(training.steps_of(200), training.epochs((x, y)), strict=False):
        training.step(model, batch, optimizer, F.mse_loss)
        with torch.no_grad():
            for mine, its in zip(target.parameters(), model.parameters(), strict=True):
                mine.lerp_(its, 0.02)
    optimizer.zero_grad()
    return Given(model, data.batches((x, y), most=10), loss=F.mse_loss, optimizer=training.adam, ema=target)


@case("RNN", must_not="308")
def ema_with_buffers() -> Given:
    """Buffers are averaged together with the parameters."""
    model, average = ema("gru", networks.Gru(), buffers=True)
    return training.around(model, "gru", ema=average)


@case("MLP", must_not="308 202")
def swa_with_update_bn() -> Given:
    """The averaged model's statistics were computed anew by update_bn over the training data."""
    model = networks.mlp()
    average = AveragedModel(model)
    averaging("mlp", model, average, since=60)
    update_bn(training.data.batches(training.samples("mlp")[0]), average)
    return training.around(model, "mlp", ema=average)


@case("CNN", must_not="308")
def ema_with_copied_buffers() -> Given:
    """torch's AveragedModel at its default: parameters are averaged, buffers copied from the model at each update."""
    model, average = ema("cnn", networks.Cnn(), buffers=False)
    return training.around(model, "cnn", ema=average)


@case("transformer-like", must_not="308")
def ema_without_batch_norm() -> Given:
    """An average of parameters only, of a network with group norms: there are no statistics to be stale."""
    model, average = ema("transformer", networks.Transformer(networks.group_norm), buffers=False)
    return training.around(model, "transformer", ema=average)


@case("Hugging Face", must_not="308")
def target_network_by_hard_copy() -> Given:
    """A target that is loaded with the whole state dict now and then; a few steps behind, statistics included."""
    model = training.trained("hf").model
    target = copy.deepcopy(model)
    training.more(training.around(model, "hf"), "hf", steps=10)
    return training.around(model, "hf", ema=target)
