"""NS309: norms in evaluation mode while their network trains."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

MAY = "202 403 404 405 210"


def plain_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
    """One update, without a word about modes: they were set before the loop."""
    training.step(model, next(iter(batches)), optimizer)


def as_before(given: Given, base: str, mode: bool, **changes: Any) -> Given:
    """What is given, with the model in a mode."""
    changed = training.around(given.model, base, **changes)
    changed.model.train(mode)
    return changed


@case("CNN", must="309", may=MAY, seen="evaluate() within the epoch that never calls train() again")
def validation_leaves_evaluation_mode() -> Given:
    """train() is called once, before all epochs; validation calls eval(), and all later epochs train in that mode."""

    def validate(model: nn.Module) -> float:
        model.eval()
        return training.mean_loss(model, data.batches(training.samples("cnn")[1]))

    given = training.trained("cnn", steps=40)
    return as_before(given, "cnn", True, validate=validate, training_step=plain_step)


@case(
    "Hugging Face",
    must="309",
    may=MAY,
    seen="from_pretrained returns a model in evaluation mode; own loops never call train()",
)
def fine_tuned_as_it_was_loaded() -> Given:
    """The model comes in evaluation mode, and the loop trains it as it came."""
    return as_before(training.trained("hf"), "hf", False, training_step=plain_step)


@case(
    "MLP",
    must="309",
    may=MAY,
    seen="pseudo labels, logging or attacks computed with eval() inside the training step",
)
def evaluation_for_pseudo_labels() -> Given:
    """The step predicts labels in evaluation mode and goes on to train without leaving it."""

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        x, _ = next(iter(batches))
        model.eval()
        with torch.no_grad():
            labels = model(x).argmax(1)
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return as_before(training.trained("mlp"), "mlp", True, training_step=training_step)


class Agent(nn.Module):
    """A wrapper whose train() forgets its parts."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> nn.Module:
        self.training = mode
        if not mode:
            self.network.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


@case(
    "RNN",
    must="309",
    may=MAY,
    seen="classes that override train() and call eval() somewhere, but do not hand train() on",
)
def train_that_forgets_its_parts() -> Given:
    """After the first eval() the wrapped network never trains again, though the wrapper says it does."""
    model = Agent(training.trained("gru", steps=40).model)
    model.eval()

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        plain_step(model, batches, optimizer)

    return training.around(model, "gru", training_step=training_step)


@case("transformer-like", must_not="309 306")
def modes_as_they_should_be() -> Given:
    """train() at the start of each step, eval() for validation."""

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        plain_step(model, batches, optimizer)

    return as_before(training.trained("transformer"), "transformer", False, training_step=training_step)


@case("Hugging Face", must_not="309 305 210")
def detection_with_frozen_norms() -> Given:
    """All norms are pinned, γ and β too, and the rest trains: what detection does with small batches."""
    model = networks.FrozenNorms(training.trained("hf").model)

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        plain_step(model, batches, optimizer)

    return training.around(model, "hf", training_step=training_step)


@case("CNN", must_not="309")
def teacher_in_evaluation() -> Given:
    """Distillation: the teacher evaluates in every step, the student trains."""
    teacher = copy.deepcopy(training.trained("cnn").model).eval().requires_grad_(False)

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        x, _ = next(iter(batches))
        with torch.no_grad():
            wanted = teacher(x).softmax(1)
        optimizer.zero_grad()
        F.cross_entropy(model(x), wanted).backward()
        optimizer.step()

    return training.around(training.trained("cnn", steps=90).model, "cnn", training_step=training_step)


@case("MLP", must_not="309")
def evaluation_and_back_within_a_step() -> Given:
    """Pseudo labels in evaluation mode, then train() again before the update."""

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        x, _ = next(iter(batches))
        model.eval()
        with torch.no_grad():
            labels = model(x).argmax(1)
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return training.around(training.trained("mlp").model, "mlp", training_step=training_step)


@case("CNN", must_not="309")
def evaluation_without_norms_of_batches() -> Given:
    """A network with group norms is trained in evaluation mode: nothing in it knows the difference."""
    given = training.trained("cnn", "group")
    return as_before(given, "cnn", False, training_step=plain_step)


@case("CNN", must_not="309 306")
def handed_over_in_evaluation() -> Given:
    """A finished network in evaluation mode, as it is deployed; nothing is said of how it was trained."""
    return as_before(training.trained("cnn"), "cnn", False)
