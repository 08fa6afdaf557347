"""What a Task takes, how it normalises it, and what it refuses."""

import dataclasses

import jaxtyping
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from normsmith.errors import TaskError
from normsmith.tasks import Task, accuracy


@pytest.fixture
def unchecked():
    """Types as a user meets them: without the shape checks, which would speak before Task does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


class Samples(Dataset):
    def __init__(self, count=100):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.full((3,), float(index)), index % 2


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


def collated(samples):
    return default_collate(samples)


def tensors(count=100):
    return torch.arange(3.0 * count).reshape(count, 3), torch.arange(count) % 2


def make(**changes):
    arguments = {
        "model": lambda: nn.Linear(3, 2),
        "train": tensors(),
        "test": tensors(10),
        "loss": nn.functional.cross_entropy,
        "metric": accuracy,
    }
    return Task(**(arguments | changes))


def test_the_defaults():
    task = make()
    assert (task.name, task.batch_size, task.steps, task.device) == ("task", 64, 300, "cpu")
    assert task.learning_rates == (2**-6, 2**-4, 2**-2, 1.0)
    assert task.higher_is_better
    assert task.target is None
    optimizer = task.optimizer(task.model().parameters(), 0.5)
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.5, 0.9)


def test_a_fifth_is_held_out_when_there_is_no_validation_set():
    first, second = make(), make()
    assert (len(first.train), len(first.validation)) == (80, 20)
    assert all(
        torch.equal(a, b) for a, b in zip(first.validation.tensors, second.validation.tensors, strict=True)
    )
    rows = torch.cat([first.train.tensors[0], first.validation.tensors[0]])
    assert torch.equal(rows.sort(0).values, tensors()[0])  # every sample once, in one of them


def test_holding_out_draws_no_random_number():
    state = torch.get_rng_state()
    make()
    assert torch.equal(torch.get_rng_state(), state)


def test_replacing_a_field_does_not_hold_out_again():
    task = dataclasses.replace(make(), steps=10)
    assert (len(task.train), len(task.validation)) == (80, 20)


def test_a_validation_set_of_ones_own_leaves_train_whole():
    task = make(validation=tensors(7))
    assert (len(task.train), len(task.validation)) == (100, 7)


@pytest.mark.parametrize(
    "data",
    [
        tensors(),
        TensorDataset(*tensors()),
        Samples(),
        Subset(TensorDataset(*tensors(200)), range(100)),
        DataLoader(Samples(), batch_size=7, shuffle=True),
        DataLoader(Samples(), batch_size=7, collate_fn=collated),
    ],
    ids=["tuple", "TensorDataset", "Dataset", "Subset", "DataLoader", "DataLoader with collate_fn"],
)
def test_every_form_of_data_is_a_dataset_in_the_end(data):
    task = make(train=data)
    assert (len(task.dataset("train")), len(task.dataset("validation"))) == (80, 20)
    x, y = task.train[0]
    assert x.shape == (3,)
    assert int(y) in {0, 1}


def test_a_subset_of_tensors_becomes_tensors():
    inner = Subset(Subset(TensorDataset(*tensors(200)), range(50, 150)), range(99, -1, -1))
    task = make(train=inner, validation=tensors(5))
    assert type(task.train) is TensorDataset
    assert torch.equal(task.train[0][0], tensors(200)[0][149])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": Stream()}, "train must be a map-style dataset.*got the iterable Stream"),
        ({"test": DataLoader(Stream())}, "test must be a map-style dataset"),
        ({"train": torch.zeros(100, 3)}, "train must be a Dataset.*got a single Tensor"),
        ({"train": (torch.zeros(100, 3), torch.zeros(99))}, "one length, got lengths 100, 99"),
        ({"train": (torch.zeros(100, 3), [0] * 100)}, "train must be a tuple of tensors.*Tensor, list"),
        ({"train": ()}, "tuple of nothing"),
        ({"train": tensors(70)}, "64 samples, got 56 after a fifth"),
        ({"train": tensors(30), "validation": tensors(5)}, "64 samples, got 30; give more data"),
        ({"test": (torch.zeros(0, 3), torch.zeros(0))}, "test must hold at least one sample"),
        ({"validation": (torch.zeros(0, 3), torch.zeros(0))}, "validation must hold at least one sample"),
        (
            {"train": DataLoader(Samples(), sampler=SubsetRandomSampler(range(9)))},
            "SubsetRandomSampler.*Subset",
        ),
        ({"train": DataLoader(Samples(), batch_size=None)}, "makes its own batches"),
        ({"model": nn.Linear(3, 2)}, "a factory.*got a finished Linear"),
        ({"model": "net"}, "model must be callable, got str 'net'"),
        ({"loss": None}, "loss must be callable"),
        ({"metric": 0.5}, "metric must be callable, got float 0.5"),
        ({"optimizer": "sgd"}, "optimizer must be callable"),
        ({"forward": 3}, "forward must be callable"),
        ({"collate": 3}, "collate must be callable or None"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a positive integer, got 2.5"),
        ({"steps": -1}, "steps must be a positive integer"),
        ({"steps": True}, "steps must be a positive integer"),
        ({"learning_rates": ()}, "learning_rates must be positive finite"),
        ({"learning_rates": (0.1, -1)}, "learning_rates must be positive finite"),
        ({"learning_rates": (float("nan"),)}, "learning_rates must be positive finite"),
        ({"learning_rates": 0.1}, r"learning_rates must be a tuple of numbers, got 0.1; write \(0.1,\)"),
        ({"learning_rates": torch.tensor(0.5)}, r"got 0.5; write \(0.5,\)"),
        ({"target": float("inf")}, "target must be a finite number or None"),
        ({"higher_is_better": 1}, "higher_is_better must be True or False"),
        ({"activations": ("relu", "swish")}, "activations must be a tuple out of relu, tanh, sigmoid"),
        ({"activations": "relu"}, "activations must be a tuple"),
        ({"device": "abacus"}, "device must be one that torch knows.*'abacus'"),
        ({"name": " "}, "name must be a non-empty string"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else ",".join(value),
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_refused(changes, words):
    with pytest.raises(TaskError, match=words) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_a_loader_with_a_batch_sampler_of_its_own_is_refused():
    class Odd(BatchSampler):
        pass

    loader = DataLoader(Samples(), batch_sampler=Odd(SequentialSampler(range(100)), 4, False))
    with pytest.raises(TaskError, match="makes its own batches"):
        make(train=loader)


def test_an_unknown_split_is_refused():
    with pytest.raises(TaskError, match="one of train, validation, test, got 'dev'"):
        make().dataset("dev")


@pytest.mark.usefixtures("unchecked")
def test_rates_may_be_an_array():
    assert make(learning_rates=torch.tensor([0.25, 0.5])).learning_rates == (0.25, 0.5)


@pytest.mark.parametrize("part", ["validate", "training_step", "domain"])
def test_parts_for_checks_are_callable_or_none(part, unchecked):
    fields = {
        "model": nn.Identity, "train": (torch.zeros(80),), "test": (torch.zeros(2),), "loss": nn.MSELoss(),
        "metric": nn.MSELoss(),
    }  # fmt: skip
    assert getattr(Task(**fields), part) is None
    with pytest.raises(TaskError, match=f"{part} must be callable or None"):
        Task(**fields, **{part: 3})
