"""NS303: gradients of several micro-batches, statistics of one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.optim import Optimizer

Step = Callable[[nn.Module, Iterable[Any], Optimizer], None]


def accumulating(count: int, loss: training.Loss = nn.functional.cross_entropy) -> Step:
    """A step that adds the gradients of `count` micro-batches, as everybody writes it."""

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        optimizer.zero_grad()
        for x, y in itertools.islice(batches, count):
            (loss(model(x), y) / count).backward()
        optimizer.step()

    return training_step


MAY = "304 202 403 404 405 506"


@case("MLP", must="303 301", may=MAY, seen="gradient_accumulation_steps=8 to make up for a small GPU")
def eight_micro_batches_of_four() -> Given:
    """A batch of 32 by accumulation, but batch norm sees four samples at a time."""
    return training.fitted(networks.mlp(), "mlp", size=4, steps=300, training_step=accumulating(8))


class LastState(networks.Gru):
    """Batch norm on the last state of the GRU."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.bn.norm(self.rnn(x)[1][-1])))


@case("RNN", must="303 301", may=MAY, seen="speech and text models trained with accumulation")
def four_micro_batches_of_six_for_a_gru() -> Given:
    """24 sequences in a step, six values per channel in the norm of the last state."""
    return training.fitted(
        LastState(networks.batch_norm), "gru", size=6, steps=250, training_step=accumulating(4)
    )


@case(
    "Hugging Face",
    must="303 301",
    may=MAY,
    seen="Trainer arguments: per_device_train_batch_size=2, accumulation of 8",
)
def eight_micro_batches_of_two_for_hf_resnet() -> Given:
    """The last maps are 1 × 1, so that a micro-batch of two gives two values per channel."""
    model = networks.hf_resnet(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1])
    return training.fitted(model, "hf", size=2, steps=100, training_step=accumulating(8))


@case("CNN", must_not="303 301")
def micro_batches_with_many_positions() -> Given:
    """Eight micro-batches of 32 images: 512 values per channel at least, more than the estimate needs."""
    return training.fitted(networks.Cnn(), "cnn", size=32, steps=150, training_step=accumulating(8))


@case("MLP", must_not="303 301")
def group_norm_with_accumulation() -> Given:
    """Group norm gives the same for micro-batches as for the batch."""
    model = networks.mlp(networks.group_norm)
    return training.fitted(model, "mlp", size=4, steps=300, training_step=accumulating(8))


@case("transformer-like", must_not="303 304")
def one_batch_in_a_step() -> Given:
    """A training step of one's own, without accumulation."""
    given = training.trained("transformer")
    return training.around(given.model, "transformer", training_step=accumulating(1))


@case("MLP", must_not="303 301")
def frozen_norms_with_accumulation() -> Given:
    """Fine-tuning with micro-batches of four, all norms pinned to their running statistics for good."""
    model = networks.FrozenNorms(training.trained("mlp").model)
    small = data.batches(training.samples("mlp")[0], 4, most=40)
    return training.around(model, "mlp", batches=small, training_step=accumulating(8))
