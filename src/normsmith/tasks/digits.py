"""The embedded tasks on scikit-learn's digits: 1,797 real 8×8 images of ten classes, no download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normsmith._extras import imports_of_extra
from normsmith.tasks.metrics import accuracy
from normsmith.tasks.task import Task

_SEED = 0
_PIXEL_MAX = 16.0
_PIXEL_MEAN = 4.884 / _PIXEL_MAX  # over all 1,797 images; a constant, so no split informs another


@cache
def digits_mlp() -> Task:
    """An MLP of 3 × 100 ReLU units on the digits; the task a study runs without an argument.

    Layers have torch's default initialisation. Activations to try: ReLU, tanh, sigmoid; target 95 % accuracy;
    120 steps of batch 64 (7.5 epochs). Inputs are (N, 64) float32. Raises MissingExtraError without
    scikit-learn.

    >>> task = digits_mlp()
    >>> len(task.train), len(task.validation), len(task.test)
    (1077, 360, 360)
    """
    return _digits_task("digits-mlp", "MLP 3×100 on scikit-learn's digits", _mlp, (64,), steps=120)


@cache
def digits_cnn() -> Task:
    """Three small convolutions and global average pooling on the digits: 150 steps; otherwise as `digits_mlp`.

    Inputs are (N, 1, 8, 8) float32.
    """
    return _digits_task("digits-cnn", "three convolutions on scikit-learn's digits", _cnn, (1, 8, 8))


@cache
def digits_rnn() -> Task:
    """A tanh RNN of 100 units that reads the digits as 32 steps of two pixels, row by row; otherwise as `digits_mlp`.

    Inputs are (N, 32, 2) float32. The network is an `Elman`, whose tanh is its only activation. No target: a study
    takes 97 % of the way that the best control goes; 300 steps of batch 64 (19 epochs).
    """
    description = "tanh RNN of 100 units over 32 steps of scikit-learn's digits"
    task = _digits_task("digits-rnn", description, partial(Elman, 2, 100, 10), (32, 2))
    return replace(task, target=None, activations=(), steps=300, learning_rates=(2**-8, 2**-6, 2**-4, 2**-2))


class Elman(nn.Module):
    """Elman's recurrent network, written step by step, so that what is between its layers can be changed.

        h_t = activation(input(x_t) + state(h_{t−1})),   h_0 = 0;   output = head(h_T)

    `x` is (N, T, inputs), the output (N, outputs). Training and inference are the same. `torch.nn.RNN` computes the
    same, but as one layer.

    Source: Elman, "Finding structure in time", Cognitive Science 14, 1990.

    >>> Elman(2, 5, 3)(torch.randn(4, 7, 2)).shape
    torch.Size([4, 3])
    """

    def __init__(self, inputs: int, units: int, outputs: int) -> None:
        super().__init__()
        self.input: nn.Module = nn.Linear(inputs, units)
        self.state = nn.Linear(units, units, bias=False)
        self.activation: nn.Module = nn.Tanh()
        self.head = nn.Linear(units, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), self.state.in_features)
        for step in self.input(x).unbind(1):
            h = self.activation(step + self.state(h))
        output: Tensor = self.head(h)
        return output


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 100),
        nn.ReLU(),
        nn.Linear(100, 100),
        nn.ReLU(),
        nn.Linear(100, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def _digits_task(
    name: str, description: str, model: Callable[[], nn.Module], shape: tuple[int, ...], *, steps: int = 150
) -> Task:
    train, validation, test = [(images.reshape(-1, *shape), labels) for images, labels in _digits()]
    return Task(
        model=model,
        train=train,
        validation=validation,
        test=test,
        loss=F.cross_entropy,
        metric=accuracy,
        name=name,
        description=description,
        batch_size=64,
        steps=steps,
        target=0.95,
        activations=("relu", "tanh", "sigmoid"),
    )


@cache
def _digits() -> list[tuple[Tensor, Tensor]]:
    """Train, validation and test as (images (N, 64), labels (N,)): 60, 20, 20 %, stratified, fixed seed.

    Pixels, 0…16, become pixel/16 − mean/16 with the mean over all pixels, a constant.
    """
    with imports_of_extra("study", "every task on the embedded digits"):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    pixels, labels = load_digits(return_X_y=True)
    rest, test = train_test_split(range(len(labels)), test_size=360, random_state=_SEED, stratify=labels)
    train, validation = train_test_split(rest, test_size=360, random_state=_SEED, stratify=labels[rest])
    images = torch.from_numpy(pixels).float() / _PIXEL_MAX - _PIXEL_MEAN
    classes = torch.from_numpy(labels).long()
    return [(images[index], classes[index]) for index in map(torch.tensor, (train, validation, test))]
