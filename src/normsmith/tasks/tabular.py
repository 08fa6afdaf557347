"""The embedded tasks on scikit-learn's bundled tables, whose features come in the units that they were measured in."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normsmith._extras import imports_of_extra
from normsmith.tasks.metrics import accuracy, r_squared
from normsmith.tasks.task import Task

_SEED = 0
_TARGET_MEAN, _TARGET_STD = 152.1, 77.0  # of diabetes, over all rows: constants, so no split informs another
_RATES = (2**-8, 2**-6, 2**-4, 2**-2)


class Standardise(nn.Module):
    """The first module of the networks for tables: (x − mean) / std, feature by feature, by constants.

    The means and standard deviations (features,) are those of the training split; they are buffers, so that
    gradients and surgery leave them alone. `x` is (N, features). Training and evaluation are the same. A question about
    raw inputs takes this module away.

    >>> Standardise(torch.tensor([1.0]), torch.tensor([2.0]))(torch.tensor([[5.0]]))
    tensor([[2.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"{len(self.mean)}"


@cache
def wine() -> Task:
    """Three cultivars of wine by 13 chemical measurements, from 0.1 to 1,700 in size; an MLP of 2 × 50 ReLU units.

    Inputs are (N, 13) float32 in their own units, which the network's first module standardises (`Standardise`);
    106 rows to train on, 36 each for validation and test, stratified. Layers have torch's default initialisation.
    Activations to try: ReLU, tanh, sigmoid; target 95 % accuracy; 150 steps of batch 32. Raises MissingExtraError
    without scikit-learn.

    >>> task = wine()
    >>> len(task.train), len(task.validation), len(task.test)
    (106, 36, 36)
    """
    return _classification("wine", "MLP 2×50 on scikit-learn's wine table", "load_wine", batch_size=32)


@cache
def breast_cancer() -> Task:
    """Benign or malignant by 30 measurements of cells, from 0.002 to 4,000 in size; otherwise as `wine`.

    Inputs are (N, 30) float32 in their own units; 341 rows to train on, 114 each for validation and test; batch 64.

    >>> len(breast_cancer().train)
    341
    """
    description = "MLP 2×50 on scikit-learn's breast cancer table"
    return _classification("breast-cancer", description, "load_breast_cancer", batch_size=64)


@cache
def diabetes() -> Task:
    """A regression: the progression of a disease by ten measurements in their own units; an MLP of 2 × 50 ReLU units.

    Inputs are (N, 10) float32 in their own units (years, blood pressure, serum), which the network's first module
    standardises (`Standardise`). The output (N,) is the progression as (score − 152.1) / 77, constants over all rows.
    The loss is the mean squared error, the metric R² (`r_squared`), of which one point is 0.01. 266 rows to train on,
    88 each for validation and test. Activations to try: ReLU, tanh, sigmoid; no target: the study takes 97 % of the
    way that the best control goes; 150 steps of batch 64. Raises MissingExtraError without scikit-learn.

    >>> task = diabetes()
    >>> len(task.train), len(task.validation), len(task.test)
    (266, 88, 88)
    """
    table, scores = _table("load_diabetes", scaled=False)
    targets = (torch.from_numpy(scores).float() - _TARGET_MEAN) / _TARGET_STD
    return Task(
        **_data(table, targets, None, outputs=1),
        loss=F.mse_loss,
        metric=r_squared,
        name="diabetes",
        description="MLP 2×50 on scikit-learn's diabetes table",
        batch_size=64,
        steps=150,
        learning_rates=_RATES,
        activations=("relu", "tanh", "sigmoid"),
    )


def _classification(name: str, description: str, loader: str, *, batch_size: int) -> Task:
    table, classes = _table(loader)
    labels = torch.from_numpy(classes).long()
    return Task(
        **_data(table, labels, classes, outputs=int(labels.max()) + 1),
        loss=F.cross_entropy,
        metric=accuracy,
        name=name,
        description=description,
        batch_size=batch_size,
        steps=150,
        learning_rates=_RATES,
        target=0.95,
        activations=("relu", "tanh", "sigmoid"),
    )


def _table(loader: str, **options: Any) -> tuple[Any, Any]:
    """The features and targets of one of scikit-learn's tables, as NumPy arrays."""
    with imports_of_extra("study", "every task on scikit-learn's tables"):
        from sklearn import datasets
    features, targets = getattr(datasets, loader)(return_X_y=True, **options)
    return features, targets


def _data(table: Any, targets: Tensor, classes: Any, *, outputs: int) -> dict[str, Any]:
    """The splits of a table (60, 20, 20 %, fixed seed) and a factory of networks for it, by the names a Task has."""
    from sklearn.model_selection import train_test_split

    inputs = torch.from_numpy(table).float()
    held = len(inputs) // 5 + (len(inputs) % 5 > 2)
    split = partial(train_test_split, test_size=held, random_state=_SEED)
    rest, test = split(range(len(inputs)), stratify=classes)
    train, validation = split(rest, stratify=None if classes is None else classes[rest])
    parts = {"train": train, "validation": validation, "test": test}
    known = inputs[torch.tensor(train)]
    return {
        "model": _factory(known.mean(0), known.std(0), outputs),
        **{name: (inputs[torch.tensor(rows)], targets[torch.tensor(rows)]) for name, rows in parts.items()},
    }


def _factory(mean: Tensor, std: Tensor, outputs: int) -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        layers = (
            Standardise(mean.clone(), std.clone()),
            nn.Linear(len(mean), 50),
            nn.ReLU(),
            nn.Linear(50, 50),
            nn.ReLU(),
            nn.Linear(50, outputs),
        )
        return nn.Sequential(*layers, nn.Flatten(0)) if outputs == 1 else nn.Sequential(*layers)

    return model
