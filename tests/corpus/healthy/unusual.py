"""Known-good networks of less usual kinds: everything here is on purpose, and right."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, update_bn


@case("CNN")
def healthy_with_group_norm() -> Given:
    """Group norm of four groups, in batches of four."""
    model = networks.Cnn(networks.options("group", groups=4))
    return training.fitted(model, "cnn", size=4, steps=400)


@case("MLP")
def healthy_without_norms() -> Given:
    """Four layers by He's initialisation, no norm."""
    layers: list[nn.Module] = []
    for inputs in (64, 64, 64):
        linear = nn.Linear(inputs, 64)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return training.fitted(nn.Sequential(*layers, nn.Linear(64, 10)), "mlp", steps=80)


@case("CNN")
def healthy_with_small_momentum() -> Given:
    """Momentum 0.03 and steps enough."""
    return training.trained("cnn", momentum=0.03, steps=250)


@case("MLP")
def healthy_swa() -> Given:
    """An average of weights with statistics recomputed for it, beside the model itself."""
    model = training.trained("mlp").model
    average = AveragedModel(model)
    optimizer = training.adam(model)
    for _, batch in zip(training.steps_of(60), training.epochs(training.samples("mlp")[0]), strict=False):
        training.step(model, batch, optimizer)
        average.update_parameters(model)
    optimizer.zero_grad()
    update_bn(data.batches(training.samples("mlp")[0]), average)
    return training.around(model, "mlp", ema=average)


@case("CNN")
def healthy_ema() -> Given:
    """An exponential average of parameters and buffers alike, saved as the file to deploy."""
    model = training.trained("cnn").model
    average = copy.deepcopy(model)
    optimizer = training.adam(model)
    for _, batch in zip(training.steps_of(60), training.epochs(training.samples("cnn")[0]), strict=False):
        training.step(model, batch, optimizer)
        with torch.no_grad():
            for mine, its in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                mine.lerp_(its, 0.1) if mine.is_floating_point() else mine.copy_(its)
    optimizer.zero_grad()
    return training.around(model, "cnn", ema=average, saved=dict(average.state_dict()))


class FrozenBackbone(nn.Module):
    """A frozen network whose features feed a head with a norm of its own."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.head = nn.Sequential(
            nn.Linear(10, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)
        )

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def trainable(model: nn.Module) -> Optimizer:
    """Adam over what has gradients."""
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)


@case("Hugging Face")
def healthy_fine_tuning() -> Given:
    """A Hugging Face backbone frozen on purpose under a head that trains, with a training step of its own."""

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        training.step(model, next(iter(batches)), optimizer)

    model = training.fitted(FrozenBackbone(training.trained("hf").model), "hf", steps=80).model
    return training.around(model, "hf", optimizer=trainable, training_step=training_step)


@case("transformer-like")
def healthy_masked_text() -> Given:
    """Padded sentences whose norm is told by a mask what is padding."""
    from normsmith.layers import BatchNorm1d, use_mask

    class Masked(networks.Words):
        def forward(self, words: Tensor) -> Tensor:
            with use_mask(self, words > 0):
                return super().forward(words)

    training_set, held_out = data.split(data.tokens(shortest=4))
    loss = nn.functional.cross_entropy
    model = Masked(lambda channels, _: BatchNorm1d(channels))
    training.train(model, training.epochs(training_set), 100, rate=1e-2)
    validate = training.validation(held_out, loss)
    batches = data.batches(training_set, most=7)
    return Given(model, batches, loss=loss, optimizer=training.adam, validate=validate)


@case("CNN")
def healthy_renorm() -> Given:
    """normsmith's batch renorm with usual limits in batches of 16."""
    from normsmith.layers import BatchRenorm2d

    model = networks.Cnn(lambda channels, _: BatchRenorm2d(channels, total_steps=150))
    return training.fitted(model, "cnn", size=16, steps=200)


@case("RNN")
def healthy_recurrent_batch_norm() -> Given:
    """normsmith's LSTM with statistics of each step."""
    from normsmith.layers import BatchNormLSTM

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = BatchNormLSTM(8, 24, max_steps=8, batch_first=True)
            self.head = nn.Linear(24, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    return training.fitted(Reader(), "gru", steps=120)


@case("MLP")
def healthy_in_float64() -> Given:
    """Everything in float64, with SGD and groups for weight decay."""
    given = training.trained("mlp")
    batches = [(x.double(), y) for x, y in given.batches or ()]

    def grouped(model: nn.Module) -> Optimizer:
        matrices = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": 1e-3}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=1e-3)

    return training.around(given.model.double(), "mlp", batches=batches, validate=None, optimizer=grouped)


@case("CNN")
def healthy_accumulation() -> Given:
    """Micro-batches of 32 images, four to a step: plenty of positions for the norms."""

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        optimizer.zero_grad()
        for (x, y), _ in zip(batches, range(4), strict=False):
            (nn.functional.cross_entropy(model(x), y) / 4).backward()
        optimizer.step()

    return training.fitted(networks.Cnn(), "cnn", size=32, steps=200, training_step=training_step)


@case("CNN")
def healthy_with_weight_standardisation() -> Given:
    """Parametrised convolutions with group norm: weights are standardised on the way."""

    class Standardised(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            deviation, mean = torch.std_mean(weight, (1, 2, 3), keepdim=True)
            return (weight - mean) / (deviation + 1e-3) / weight[0].numel() ** 0.5

    model = networks.Cnn(networks.group_norm)
    for convolution in (model.conv1, model.conv2):
        nn.utils.parametrize.register_parametrization(convolution, "weight", Standardised())
    return training.fitted(model, "cnn", steps=120)
