"""Training for a second: networks of every kind on their data, each trained once in a process and then copied."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from tests.corpus import data, networks
from tests.corpus.case import Given
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

Loss = Callable[[Any, Any], Tensor]
Pair = tuple[Tensor, Tensor]


AT_MOST: int | None = None
"""At most so many steps of any training: for a test that cases build and run, whatever they have learned."""


def steps_of(steps: int) -> range:
    """The steps of a training, or the first of them."""
    return range(steps if AT_MOST is None else min(steps, AT_MOST))


@dataclass(frozen=True)
class Base:
    """A kind of network with its data: what to build, what to train it on, how long."""

    kind: str
    network: Callable[..., nn.Module]
    samples: Callable[[], Pair]
    loss: Loss = F.cross_entropy
    steps: int = 120
    learning_rate: float = 4e-3


BASES = {
    "mlp": Base("MLP", networks.mlp, partial(data.digits, "flat")),
    "cnn": Base("CNN", networks.Cnn, partial(data.digits, "image"), learning_rate=2e-2),
    "resnet": Base("CNN", networks.ResNet, partial(data.digits, "image"), learning_rate=1e-2),
    "gru": Base("RNN", networks.Gru, partial(data.digits, "rows"), learning_rate=2e-2),
    "transformer": Base("transformer-like", networks.Transformer, partial(data.digits, "rows")),
    "words": Base("transformer-like", networks.Words, data.tokens),
    "hf": Base(
        "Hugging Face", networks.hf_resnet, partial(data.digits, "large"), steps=100, learning_rate=1e-2
    ),
    "monai": Base("MONAI", networks.monai_unet, data.squares, F.binary_cross_entropy_with_logits, steps=60),
}


def adam(model: nn.Module, learning_rate: float = 1e-3) -> Optimizer:
    """Adam over all parameters."""
    return torch.optim.Adam(model.parameters(), lr=learning_rate)


def epochs(samples: Pair, size: int = data.SIZE, seed: int = 5) -> Iterator[Pair]:
    """Whole batches for ever, shuffled anew for each epoch."""
    x, y = samples
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(x), generator=generator)
        yield from data.batches((x[order], y[order]), size)


def train(
    model: nn.Module, batches: Iterable[Pair], steps: int, *, loss: Loss = F.cross_entropy, rate: float = 4e-3
) -> nn.Module:
    """Train with Adam and a cosine schedule, over and over the batches; the modes are the caller's affair."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.02 * rate)
    for _, (x, y) in zip(steps_of(steps), itertools.cycle(batches), strict=False):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()
    return model


@cache
def _trained(name: str, steps: int, norm: str | None, options: tuple[tuple[str, Any], ...]) -> nn.Module:
    base, training = BASES[name], samples(name)[0]
    with torch.random.fork_rng(devices=[]):  # what comes after draws the same whether this was cached or not
        torch.manual_seed(0)
        model = base.network() if norm is None else base.network(networks.options(norm, **dict(options)))
        return train(model.train(), epochs(training), steps, loss=base.loss, rate=base.learning_rate)


@cache
def samples(name: str) -> tuple[Pair, Pair]:
    """What a base is trained on, and what is held out."""
    return data.split(BASES[name].samples())


def around(model: nn.Module, name: str, **changes: Any) -> Given:
    """A model in training mode with a base's batches, loss, optimizer and validation."""
    training, held_out = samples(name)
    given: dict[str, Any] = {
        "batches": data.batches(training, most=10),
        "loss": BASES[name].loss,
        "optimizer": adam,
        "validate": validation(held_out, BASES[name].loss),
    }
    return Given(model.train(), **(given | changes))


def trained(name: str, norm: str | None = None, *, steps: int | None = None, **options: Any) -> Given:
    """A base's network after training, as nobody could complain of; `norm` and its options where it is not torch's.

    Options are those of the norm, such as `momentum`.
    """
    norm = "batch" if options and norm is None else norm
    model = _trained(
        name, BASES[name].steps if steps is None else steps, norm, tuple(sorted(options.items()))
    )
    return around(copy.deepcopy(model), name)


def fitted(
    model: nn.Module, name: str, *, steps: int | None = None, size: int = data.SIZE, **changes: Any
) -> Given:
    """A model of one's own after training on a base's data, in batches of `size`."""
    base, (training, _) = BASES[name], samples(name)
    count = base.steps if steps is None else steps
    train(model, epochs(training, size), count, loss=base.loss, rate=base.learning_rate)
    return around(model, name, **({"batches": data.batches(training, size, most=10)} | changes))


def more(given: Given, name: str, steps: int = 20, rate: float = 1e-3, size: int = data.SIZE) -> Given:
    """Train what is given a little more, as it is set up now."""
    train(given.model, epochs(samples(name)[0], size, seed=6), steps, loss=BASES[name].loss, rate=rate)
    return given


def validation(held_out: Pair, loss: Loss) -> Callable[[nn.Module], float]:
    """A validation as it should be: in evaluation mode, without gradients, the mode put back."""

    def validate(model: nn.Module) -> float:
        training = model.training
        model.eval()
        value = mean_loss(model, data.batches(held_out), loss)
        model.train(training)
        return value

    return validate


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[Pair], loss: Loss = F.cross_entropy) -> float:
    """The mean loss over batches in whatever mode the model is."""
    values = [loss(model(batch[0]), batch[1]) for batch in batches]
    return float(torch.stack(values).mean())


def step(model: nn.Module, batch: Pair, optimizer: Optimizer, loss: Loss = F.cross_entropy) -> None:
    """Forward, backward and update for one batch."""
    optimizer.zero_grad()
    loss(model(batch[0]), batch[1]).backward()
    optimizer.step()
