"""`check` says in one line what of a task does not work, and changes nothing."""

import itertools
import sys

import pytest
import torch
from torch import nn

from normsmith.errors import TaskError
from normsmith.tasks import Task, accuracy, check, digits_cnn, digits_mlp

counter = itertools.count()
backbone = nn.Linear(3, 2)


def make(**changes):
    x, y = torch.randn(100, 3), torch.arange(100) % 2
    arguments = {
        "model": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)),
        "train": (x, y),
        "test": (x[:9], y[:9]),
        "loss": nn.functional.cross_entropy,
        "metric": accuracy,
        "name": "mine",
    }
    return Task(**(arguments | changes))


def raising(error):
    def function(*_):
        raise error

    return function


@pytest.mark.parametrize("task", [make(), digits_mlp(), digits_cnn()], ids=lambda task: task.name)
def test_a_task_that_works_passes_and_draws_nothing(task):
    state = torch.get_rng_state()
    assert check(task) is None
    assert torch.equal(torch.get_rng_state(), state)


def test_lazy_layers_pass():
    check(make(model=lambda: nn.Sequential(nn.LazyLinear(2))))


@pytest.mark.parametrize(
    ("changes", "words", "cause"),
    [
        ({"model": raising(KeyError("w"))}, "the model factory raised KeyError: 'w'", KeyError),
        ({"model": lambda: 3}, "must return an nn.Module, got int", None),
        ({"model": lambda: backbone}, "two calls share parameters", None),
        ({"model": lambda: nn.Sequential(backbone, nn.ReLU())}, "two calls share parameters", None),
        ({"model": lambda: nn.Linear(3, 2 + next(counter))}, "gave different weights", None),
        (
            {"model": lambda: nn.Linear(5, 2)},
            r"forward raised on a training batch of \(64, 3\), \(64,\) RuntimeError: .*mat1 and mat2",
            RuntimeError,
        ),
        ({"forward": lambda model, batch: model(batch[0])}, r"must return \(output, target\), got Tensor", None),
        ({"forward": lambda model, batch: batch[2]}, "forward raised.*IndexError", IndexError),
        ({"loss": raising(ValueError("bad\nvalue"))}, r"and target \(64,\) ValueError: bad value", ValueError),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, r"scalar tensor, got shape \(64,\)", None),
        ({"loss": lambda o, t: 0.5}, "scalar tensor, got float", None),
        ({"loss": lambda o, t: o.sum() * float("nan")}, "loss is nan from the start", None),
        ({"loss": lambda o, t: o.detach().sum()}, "without a gradient", None),
        ({"optimizer": lambda p, rate: None}, "must return a torch.optim.Optimizer, got NoneType", None),
        ({"optimizer": raising(ValueError("rate"))}, "the optimizer raised ValueError: rate", ValueError),
        (
            {"optimizer": lambda p, rate: torch.optim.SGD(backbone.parameters(), lr=rate)},
            "optimizer must train the parameters that it is called with, got SGD with 2 parameters, none of them",
            None,
        ),
        ({"metric": raising(KeyError("k"))}, "metric raised on validation: KeyError: 'k'", KeyError),
        ({"metric": lambda o, t: "good"}, "metric must return a number, got str", None),
        ({"metric": lambda o, t: None}, "metric must return a number, got None; does it lack a return?", None),
        (
            {"metric": lambda o, t: o.argmax(1) == t},
            r"got a Tensor of shape \(20,\); return one number, such as its .mean\(\).item\(\)",
            None,
        ),
        ({"metric": lambda o, t: o.numpy()}, r"got a ndarray of shape \(20, 2\); return one number", None),
        ({"metric": lambda o, t: (0.5, 0.6)}, "got a tuple of 2; return one of them, as a float", None),
        ({"metric": lambda o, t: sys.exit(0)}, "metric raised on validation: SystemExit: 0", SystemExit),
        ({"forward": raising(GeneratorExit())}, "forward raised on a training batch.*GeneratorExit", GeneratorExit),
        ({"test": (torch.zeros(9, 7), torch.zeros(9))}, "on test raised RuntimeError", RuntimeError),
    ],
)  # fmt: skip
def test_what_fails_is_named_with_its_cause(changes, words, cause):
    with pytest.raises(TaskError, match=words) as caught:
        check(make(**changes))
    assert "\n" not in str(caught.value)
    if cause is not None:
        assert isinstance(caught.value.__cause__, cause)


def test_data_that_raises_is_named():
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 100

        def __getitem__(self, index):
            raise OSError("disk")

    with pytest.raises(TaskError, match="the training data raised OSError: disk"):
        check(make(train=Broken(), validation=make().test))


def test_a_device_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(TaskError, match="device 'cuda' cannot be used"):
        check(make(device="cuda"))
