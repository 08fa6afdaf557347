"""A task: the user's network, data, loss and metric in one object."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from normsmith._choices import did_you_mean
from normsmith.errors import TaskError
from normsmith.tasks.datasets import Data, as_dataset, hold_out, kind, length

ACTIVATIONS = ("relu", "tanh", "sigmoid")
SPLITS = ("train", "validation", "test")
UNNAMED = "task"
"""The name of a task to which nobody gave one, until `load` gives it that by which it was found."""


def momentum_sgd(parameters: Iterable[Tensor], learning_rate: float) -> Optimizer:
    """Stochastic gradient descent with momentum 0.9: the optimizer of a task that names none.

    One kernel for the whole step where torch has one: its own loop over small parameters takes as long as a forward.
    """
    trained = list(parameters)
    fused = all(_is_plain(parameter) for parameter in trained)
    return torch.optim.SGD(trained, lr=learning_rate, momentum=0.9, fused=fused)


def _is_plain(parameter: Tensor) -> bool:
    """Whether torch's fused optimizers take a parameter: contiguous real numbers on a CPU or GPU."""
    if nn.parameter.is_lazy(parameter) or not parameter.is_floating_point():
        return False
    return parameter.is_contiguous() and parameter.device.type in ("cpu", "cuda")


def pair_forward(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """Take a batch as (input, target) and return (model(input), target)."""
    return model(batch[0]), batch[1]


@dataclass(frozen=True, eq=False)
class Task:
    """What a study needs to know of a network: how to build it, its data, its loss and its metric.

    Arguments:
        model: a factory without arguments that builds a new `nn.Module` at each call (a class will do), with
            weights drawn from the current random state; a module itself is refused, because every trial needs
            a network of its own.
        train, test: a map-style Dataset, a tuple (or list) of tensors of one length (a `TensorDataset`), a list of
            samples (`[(x0, y0), (x1, y1), ...]`), or a DataLoader, of which the dataset and the `collate_fn` are
            taken and nothing else: batch size and order are the task's and the study's. A DataLoader with a sampler
            of its own is refused: pass
            `torch.utils.data.Subset` instead, so that no sample is used that the sampler left out.
        loss: `loss(output, target)` → scalar tensor, a mean over samples.
        metric: `metric(output, target)` → float; called once on the outputs of a whole split, so that
            measures which are no mean over samples (AUC, F1) are right.
        validation: like `train`; without it a fifth of `train`, drawn with a fixed seed, is held out and is
            no longer trained on.
        name, description: shown in reports. A task without a name is called `file.py:attribute` by `load`.
        batch_size: samples per training step; an epoch's incomplete last batch is left out.
        steps: training steps of a trial.
        learning_rates: those a study may tune over, a tuple.
        optimizer: `optimizer(parameters, learning_rate)` → `torch.optim.Optimizer`.
        forward: `forward(model, batch)` → (output, target), for batches that are not (input, target).
        higher_is_better: whether a larger metric is better.
        target: the metric at which the network counts as trained; None lets the study decide.
        point: how much of the metric studies call one point; margins such as "2 points" are multiples of it.
        activations: names out of "relu", "tanh", "sigmoid" that a study should try in place of the network's
            own; empty means its own only.
        device: where to train, as `torch.device` names it.
        collate: list of samples → batch; None means torch's `default_collate`. A DataLoader's own
            `collate_fn` is used instead of it. Not used for tensors, which are indexed as a whole.
        validate: your own validation, `validate(model)`, for `normsmith check`; studies do without.
        training_step: what happens within a step of your training, `training_step(model, batches, optimizer)`, for
            `normsmith check`.
        domain: `domain(batch)`, where a batch comes from, if the data are of several kinds; for `normsmith check`.

    Raises TaskError when an argument is not what is described here.

    >>> x, y = torch.randn(100, 3), torch.randint(2, (100,))
    >>> task = Task(model=lambda: nn.Linear(3, 2), train=(x, y), test=(x, y), loss=nn.CrossEntropyLoss(),
    ...             metric=lambda output, target: float((output.argmax(1) == target).float().mean()))
    >>> len(task.train), len(task.validation)
    (80, 20)
    """

    model: Callable[[], nn.Module]
    train: Data
    test: Data
    loss: Callable[[Any, Any], Tensor]
    metric: Callable[[Any, Any], Any]
    _: KW_ONLY
    validation: Data | None = None
    name: str = UNNAMED
    description: str = ""
    batch_size: int = 64
    steps: int = 300
    learning_rates: tuple[float, ...] = (2**-6, 2**-4, 2**-2, 1.0)
    optimizer: Callable[[Any, float], Optimizer] = momentum_sgd
    forward: Callable[[nn.Module, Any], tuple[Any, Any]] = pair_forward
    higher_is_better: bool = True
    target: float | None = None
    point: float = 0.01
    activations: tuple[str, ...] = ()
    device: str = "cpu"
    collate: Callable[[list[Any]], Any] | None = None
    validate: Callable[[nn.Module], Any] | None = None
    training_step: Callable[..., Any] | None = None
    domain: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.strip()):
            raise TaskError(f"Task: name must be a non-empty string, got {self.name!r}")
        self._check_callables()
        self._check_numbers()
        self._normalise_data()

    def dataset(self, split: str) -> Dataset[Any]:
        """The dataset of "train", "validation" or "test"."""
        if split not in SPLITS:
            raise self.error(
                f"split must be one of {', '.join(SPLITS)}, got {split!r}{did_you_mean(split, SPLITS)}"
            )
        dataset: Dataset[Any] = getattr(self, split)
        return dataset

    def error(self, message: str) -> TaskError:
        """An error that names the task it is about."""
        return TaskError(f"task {self.name!r}: {message}")

    def _check_callables(self) -> None:
        if isinstance(self.model, nn.Module):
            raise self.error(
                "model must be a factory that builds a new network at each call, got a finished "
                f"{type(self.model).__name__}; pass its class or `lambda: {type(self.model).__name__}(...)`"
            )
        for field in ("model", "loss", "metric", "optimizer", "forward"):
            if not callable(getattr(self, field)):
                raise self.error(f"{field} must be callable, got {kind(getattr(self, field))}")
        for field in ("collate", "validate", "training_step", "domain"):
            value = getattr(self, field)
            if value is not None and not callable(value):
                raise self.error(f"{field} must be callable or None, got {kind(value)}")

    def _check_numbers(self) -> None:
        for field in ("batch_size", "steps"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise self.error(f"{field} must be a positive integer, got {value!r}")
        object.__setattr__(self, "learning_rates", self._rates())
        if self.target is not None and not _is_finite(self.target):
            raise self.error(f"target must be a finite number or None, got {self.target!r}")
        if not (_is_finite(self.point) and self.point > 0):
            raise self.error(f"point must be a positive finite number, got {self.point!r}")
        if not isinstance(self.higher_is_better, bool):
            raise self.error(f"higher_is_better must be True or False, got {self.higher_is_better!r}")
        chosen: Any = self.activations
        if isinstance(chosen, str) or not set(chosen) <= set(ACTIVATIONS):
            raise self.error(f"activations must be a tuple out of {', '.join(ACTIVATIONS)}, got {chosen!r}")
        object.__setattr__(self, "activations", tuple(dict.fromkeys(chosen)))
        try:
            object.__setattr__(self, "device", str(torch.device(self.device)))
        except (RuntimeError, TypeError) as error:
            raise self.error(
                f"device must be one that torch knows, such as 'cpu', got {self.device!r}"
            ) from error

    def _rates(self) -> tuple[float, ...]:
        given: Any = self.learning_rates
        given = given.tolist() if hasattr(given, "tolist") else given  # arrays and tensors
        if isinstance(given, Real):
            raise self.error(f"learning_rates must be a tuple of numbers, got {given!r}; write ({given!r},)")
        try:
            rates = tuple(given)
        except TypeError:
            rates = ()
        if not rates or not all(_is_finite(rate) and rate > 0 for rate in rates):
            raise self.error(f"learning_rates must be positive finite numbers, got {self.learning_rates!r}")
        return tuple(float(rate) for rate in rates)

    def _normalise_data(self) -> None:
        train = as_dataset(self.train, f"task {self.name!r}: train")
        test = as_dataset(self.test, f"task {self.name!r}: test")
        held_out = self.validation is None
        if self.validation is None:
            train, validation = hold_out(train)
        else:
            validation = as_dataset(self.validation, f"task {self.name!r}: validation")
        object.__setattr__(self, "train", train)
        object.__setattr__(self, "validation", validation)
        object.__setattr__(self, "test", test)
        if length(train) < self.batch_size:
            left = " after a fifth was held out for validation" if held_out else ""
            raise self.error(
                f"train must hold at least one batch, {self.batch_size} samples, got {length(train)}{left}; "
                "give more data or a smaller batch_size"
            )
        for split, dataset in (("validation", validation), ("test", test)):
            if length(dataset) < 1:
                raise self.error(f"{split} must hold at least one sample, got none")


def _is_finite(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
